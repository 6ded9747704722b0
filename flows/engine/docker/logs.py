"""Copy a container's output: attached while that lasts, from the engine's log after a cut."""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any

import docker
import docker.errors
import requests.exceptions
from docker.utils.socket import frames_iter

from flows.engine.contract import Sink, Tailed
from flows.engine.docker.client import is_local, url
from flows.engine.docker.log_position import STREAMS, OutputDelivery, UnlikeLogError

_CUT = (OSError, ValueError, requests.exceptions.RequestException)
_PAUSES_SECONDS = (0.1, 2.0)
# The output ends a moment before the engine calls the container stopped.
_STOPPING_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16)
# A proxy may drop a connection without telling; what is silent for longer is asked for anew.
_SILENCE_SECONDS = 5.0


class _LogUnreadableError(Exception):
    """The engine broke off its log with a message of its own."""


class Attachment:
    """A container's stdout and stderr, copied to a sink in a thread as they come.

    An attached connection gives all that the container wrote, unchanged; where one was cut, the
    engine's log has the rest, which is read until nothing of a stopped container's is left.
    """

    def __init__(
        self, client: docker.DockerClient, name: str, sink: Sink, *, replay: bool = False
    ) -> None:
        """Attach to the container, or with `replay` read its log from the beginning. Blocks."""
        driver = client.api.inspect_container(name)["HostConfig"]["LogConfig"]["Type"]
        query = {"stdout": 1, "stderr": 1, "stream": 1, "logs": 0}
        self._client = client
        self._name = name
        self._delivery = OutputDelivery(sink, driver)
        self._attached = None if replay else client.api.attach_socket(name, params=query)
        self._was_cut = False
        self._current: Any = self._attached
        self._lock = threading.Lock()
        self._hung_up = threading.Event()
        self._pump = threading.Thread(target=self._copy, daemon=True, name=f"output of {name}")

    @property
    def tailed(self) -> Tailed:
        return self._delivery.tailed

    def start(self) -> None:
        """Begin to copy, in a thread of its own."""
        self._pump.start()

    def drain(self, seconds: float) -> None:
        """Wait until all has been copied, or nothing came for `seconds`."""
        seen, since = self._delivery.seen, time.monotonic()
        while self._pump.is_alive() and time.monotonic() - since < seconds:
            self._pump.join(min(_SILENCE_SECONDS, seconds))
            if self._delivery.seen == seen:
                self._cut()
            else:
                seen, since = self._delivery.seen, time.monotonic()

    def hang_up(self) -> None:
        """End the copying from this side; the thread closes what it has open."""
        self._hung_up.set()
        self._cut()

    def _cut(self) -> None:
        # `_close` takes the same lock, so that the number is this connection's.
        with self._lock, contextlib.suppress(*_CUT):
            if self._current is not None:
                # Shut down, not closed: a close alone does not wake a thread that reads. By a
                # duplicate: the layers of a TLS connection are in that thread's use.
                with socket.socket(fileno=os.dup(self._current.fileno())) as same:
                    same.shutdown(socket.SHUT_RDWR)

    def _copy(self) -> None:
        if self._attached is not None:
            self._copy_attached()
            self._await_stop()
            # The engine itself ends a local connection when all is said, or dies, and then does
            # not answer.
            if is_local(self._client) and not self._was_cut:
                self.tailed.complete = True
                return
        self._copy_log()

    def _copy_attached(self) -> None:
        with contextlib.suppress(*_CUT):
            for stream, chunk in frames_iter(self._attached, tty=False):  # type: ignore[no-untyped-call]
                self._delivery.take_attached(stream, chunk)
        self._delivery.broke()
        # docker-py hangs the response on the stream; closing that closes both.
        self._close(getattr(self._attached, "_response", self._attached))

    def _await_stop(self) -> None:
        """Give a container that has ended its output the time to stop."""
        for seconds in _STOPPING_SECONDS:
            with contextlib.suppress(*_CUT, docker.errors.APIError):
                if self._is_stopped():
                    return
            if self._hung_up.wait(seconds):
                return
        self._was_cut = True

    def _copy_log(self) -> None:
        """Read the log, again after every cut, until that of the stopped container is through."""
        pause, longest = _PAUSES_SECONDS
        while not self._hung_up.is_set():
            seen = self._delivery.seen
            try:
                if self._is_read_through():
                    return
            except docker.errors.NotFound:
                return
            except (*_CUT, docker.errors.APIError):
                self._delivery.broke()
                self._was_cut = True
            self._hung_up.wait(pause)
            pause = _PAUSES_SECONDS[0] if self._delivery.seen > seen else min(2 * pause, longest)

    def _is_read_through(self) -> bool:
        """Read the log once; whether nothing more will come of it."""
        # Without a sign of a cut, the attached connection gave everything, whatever the log says.
        is_whole = self._attached is not None and not self._was_cut
        is_stopped = self._is_stopped()
        try:
            caught_up = self._read_log(follow=not is_stopped)
        except _LogUnreadableError:
            self.tailed.complete = is_whole
            return True
        except UnlikeLogError:
            if not is_whole:
                self._delivery.stray()
            self.tailed.complete = is_whole
            return is_whole
        if is_stopped and not (caught_up or is_whole or self._delivery.strayed):
            self._delivery.stray()
            return False
        self.tailed.complete = is_stopped and not self._delivery.damaged
        return is_stopped

    def _read_log(self, *, follow: bool) -> bool:
        """Copy what is new in the log; whether it had all that was delivered."""
        rewinds = self._delivery.rewinds()
        response = self._open_log(follow=follow)
        try:
            _require_log(response)
            for stream, chunk in frames(response.iter_content(64 * 1024)):
                if stream not in STREAMS:
                    raise _LogUnreadableError
                self._delivery.take_logged(rewinds[stream], chunk)
        finally:
            self._close(response)
        return all(rewind.caught_up for rewind in rewinds.values())

    def _open_log(self, *, follow: bool) -> requests.Response:
        """The log as frames; docker-py's own reader loses which stream each is of."""
        api = self._client.api
        query: dict[str, int | str] = {"stdout": 1, "stderr": 1, "follow": int(follow)}
        if self._delivery.strayed:
            query["since"] = f"{self._delivery.last_output:.6f}"
        path = url(api, f"/containers/{self._name}/logs")
        response: requests.Response = api.get(path, params=query, stream=True, timeout=10.0)
        with self._lock:
            self._current = response.raw
        if self._hung_up.is_set():
            # Too late for `hang_up` to have seen it.
            self._cut()
        # The time limit was for the answer: a log may be quiet for as long as the task.
        if (connection := response.raw.connection) and connection.sock:
            connection.sock.settimeout(None)
        return response

    def _close(self, connection: Any) -> None:
        with self._lock, contextlib.suppress(*_CUT):
            self._current = None
            connection.close()

    def _is_stopped(self) -> bool:
        state = self._client.api.inspect_container(self._name)["State"]
        return not (state["Running"] or (state["Status"] == "created" and not state["Error"]))


def _require_log(response: requests.Response) -> None:
    """Raise where this is no log; what a proxy answers for an engine that is away may pass."""
    if response.status_code == HTTPStatus.NOT_FOUND:
        raise docker.errors.NotFound("the container is gone")
    if response.status_code == HTTPStatus.NOT_IMPLEMENTED or 400 <= response.status_code < 500:
        raise _LogUnreadableError
    response.raise_for_status()


def frames(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Stream number and bytes, as they come; a frame may come in parts."""
    header, stream, left = b"", 0, 0
    for chunk in chunks:
        while chunk:
            if left:
                payload, chunk = chunk[:left], chunk[left:]
                left -= len(payload)
                yield stream, payload
                continue
            missing = 8 - len(header)
            header, chunk = header + chunk[:missing], chunk[missing:]
            if len(header) == 8:
                stream, left = struct.unpack(">BxxxL", header)
                header = b""
