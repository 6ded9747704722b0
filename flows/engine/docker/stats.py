"""Stream the stats of one container, in a thread of its own, into a `Usage`."""

import contextlib
import json
import threading
import time

import docker
import requests

from flows.engine.contract import Measured
from flows.engine.docker.client import shut_down, url
from flows.engine.docker.errors import translated
from flows.engine.docker.samples import (
    Sample,
    add,
    cpu_seconds,
    memory_bytes,
    moment,
    was_running,
)
from flows.engine.usage import Point, Series
from flows.errors import EngineError, EngineUnavailable

_RECONNECT_SECONDS = 0.5
_CUT = (OSError, ValueError, requests.exceptions.RequestException)


class Sampler:
    """Samples the container `name` about once a second from `start` until `stop`.

    `measured` has what was seen so far. Measuring never fails a task: an engine that tells nothing
    leaves a `Usage` of Nones. A connection that is cut is made again for as long as the container
    runs.
    """

    def __init__(self, client: docker.DockerClient, name: str) -> None:
        self._client = client
        self._name = name
        self.measured = Measured()
        self._series = Series()
        self._started = 0.0
        self._ahead: float | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._response: requests.Response | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"usage of {name}")

    def start(self) -> None:
        """Begin to sample; returns at once."""
        self._started = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """End the sampling from this side; never blocks and may be called at any time."""
        with self._lock:
            self._over.set()
            if self._response is not None:
                shut_down(self._response.raw)

    def join(self, seconds: float) -> bool:
        """Wait after `stop` until the thread and its connection are gone; whether they are."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(*_CUT):
                self._follow()
            if self._over.is_set() or not self._may_go_on():
                return
            self._over.wait(_RECONNECT_SECONDS)

    def _follow(self) -> None:
        # docker-py's own `stats` hides the response, and with it the way to end it.
        api = self._client.api
        path, query = f"/containers/{self._name}/stats", {"stream": "true"}
        with api.get(url(api, path), params=query, stream=True, timeout=api.timeout) as response:
            with self._lock:
                self._response = response
                if 400 <= response.status_code < 500:
                    self._over.set()
            # Whoever stopped while the connection was made could not end it.
            if not self._over.is_set():
                self._take_all(response)

    def _take_all(self, response: requests.Response) -> None:
        for line in response.iter_lines():
            sample = json.loads(line)
            if was_running(sample):
                self._take(sample)
            elif not self._may_go_on():
                # The stream of a container that has ended goes on, empty.
                return

    def _take(self, sample: Sample) -> None:
        with self._lock:
            self._series.add(
                Point(self._seconds(sample), memory_bytes(sample), cpu_seconds(sample))
            )
            self.measured.usage = add(self.measured.usage, sample)
            self.measured.points = self._series.points

    def _seconds(self, sample: Sample) -> float:
        """Since the start, by the engine's clock: news of a sample may be late, and the next one
        in time."""
        heard, taken = time.monotonic() - self._started, moment(sample)
        if taken is None:
            return heard
        if self._ahead is None:
            self._ahead = taken - heard
        return round(taken - self._ahead, 2)

    def _may_go_on(self) -> bool:
        try:
            with translated("looking whether the container runs"):
                state = self._client.api.inspect_container(self._name)["State"]
        except EngineUnavailable:
            return True
        except EngineError:
            return False
        return state["Status"] not in ("exited", "removing", "dead")
