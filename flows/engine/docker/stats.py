"""Stream the stats of one container, of cgroup v1 or v2, in a thread, into a `Usage`."""

import contextlib
import json
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import docker
import requests

from flows.engine.contract import Measured
from flows.engine.docker.client import translated, url
from flows.engine.types import Point, Series, Usage, highest
from flows.errors import EngineError, EngineUnavailable

# One answer of `GET /containers/x/stats`.
Sample = Mapping[str, Any]
_CUT = (OSError, ValueError, requests.exceptions.RequestException)


class Sampler:
    """Samples the container `name` about once a second from `start` until `stop`.

    An engine that tells nothing leaves a `Usage` of Nones in `measured`. A connection that is cut
    is made again for as long as the container runs.
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
            # A stream that has ended is no longer its response's to shut down.
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                if self._response is not None:
                    # Shut down, not closed: a close alone does not wake a thread that reads. Not by
                    # its number, which may be another connection's once that thread closes it.
                    self._response.raw.shutdown()

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
            self._over.wait(0.5)

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
            if _was_running(sample):
                self._take(sample)
            elif not self._may_go_on():
                # The stream of a container that has ended goes on, empty.
                return

    def _take(self, sample: Sample) -> None:
        with self._lock:
            point = Point(self._seconds(sample), used_memory_bytes(sample), cpu_seconds(sample))
            self._series.add(point)
            self.measured.usage = add(self.measured.usage, sample)
            self.measured.points = self._series.points

    def _seconds(self, sample: Sample) -> float:
        """Since the start, by the engine's clock: news of a sample may be late."""
        heard, taken = time.monotonic() - self._started, _moment(sample)
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


def add(usage: Usage, sample: Sample) -> Usage:
    """`usage` with one more sample."""
    if not _was_running(sample):
        return usage
    received, sent = _network_bytes(sample, "rx_bytes"), _network_bytes(sample, "tx_bytes")
    return Usage(
        peak_memory_bytes=highest(usage.peak_memory_bytes, used_memory_bytes(sample)),
        cpu_seconds=highest(usage.cpu_seconds, cpu_seconds(sample)),
        block_read_bytes=highest(usage.block_read_bytes, _block_bytes(sample, "read")),
        block_write_bytes=highest(usage.block_write_bytes, _block_bytes(sample, "write")),
        network_received_bytes=highest(usage.network_received_bytes, received),
        network_sent_bytes=highest(usage.network_sent_bytes, sent),
        samples=usage.samples + 1,
        peak_pids=highest(usage.peak_pids, (sample.get("pids_stats") or {}).get("current")),
    )


def _moment(sample: Sample) -> float | None:
    """When the sample was taken, by the engine's clock; None where it does not say."""
    try:
        return datetime.fromisoformat(str(sample.get("read"))).timestamp()
    except ValueError:
        return None


def _was_running(sample: Sample) -> bool:
    """Whether the sample is of a running container: others have zeros, read at the zero time."""
    return not str(sample.get("read", "")).startswith("0001-")


def used_memory_bytes(sample: Sample) -> int | None:
    """Memory in use, as `docker stats` counts it: without inactive page cache.

    Not the `max_usage` of cgroup v1, which includes page cache: a task that only copies files would
    seem to need its whole limit.
    """
    memory = sample.get("memory_stats") or {}
    used: int | None = memory.get("usage")
    if used is None:
        return None
    stats = memory.get("stats") or {}
    # On cgroup v1 the name without "total_" leaves out the container's inner groups.
    cache: int = stats.get("total_inactive_file", stats.get("inactive_file", 0))
    return used - cache if cache < used else used


def cpu_seconds(sample: Sample) -> float | None:
    """CPU time used since the container's start, over all CPUs."""
    used = ((sample.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage")
    return None if used is None else used / 1e9


def _block_bytes(sample: Sample, operation: str) -> int | None:
    devices = (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    # Upper case on cgroup v1.
    return _sum(device["value"] for device in devices if device["op"].lower() == operation)


def _network_bytes(sample: Sample, counter: str) -> int | None:
    return _sum(network[counter] for network in (sample.get("networks") or {}).values())


def _sum(values: Iterable[int]) -> int | None:
    found = list(values)
    return sum(found) if found else None
