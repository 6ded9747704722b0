"""The output of one container: attached, resumed from the engine's log after every cut."""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, Self

import docker
import docker.errors
import requests.exceptions
from docker.utils.socket import frames_iter

from flows.engine.contract import Sink, Tailed
from flows.engine.docker.client import is_local, url
from flows.engine.docker.log_position import (
    REPLACEMENT,
    TEXT_DRIVER,
    Position,
    Rewind,
    UnlikeLogError,
)

_STREAMS = (1, 2)
_CUT = (OSError, ValueError, requests.exceptions.RequestException)
_PAUSES_SECONDS = (0.1, 2.0)
# The output ends a moment before the engine calls the container stopped.
_STOPPING_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16)
# A proxy may drop a connection without telling; what is silent for longer is asked for anew.
_SILENCE_SECONDS = 5.0
_ANSWER_SECONDS = 10.0


class _LogUnreadableError(Exception):
    """The engine broke off its log with a message of its own."""


class Attachment:
    """A container's stdout and stderr, copied to a sink as they come.

    What an attached connection gives is all that the container wrote, unchanged; where one was
    cut, the engine's log has the rest. A thread reads on until a stopped container's log has
    nothing that was not delivered. Completion of the task comes from the container's state,
    never from the end of this.
    """

    def __init__(self, client: docker.DockerClient, name: str, driver: str) -> None:
        self.tailed = Tailed()
        self._client = client
        self._name = name
        self._as_text = driver == TEXT_DRIVER
        self._positions = {stream: Position(as_text=self._as_text) for stream in _STREAMS}
        self._attached: Any = None
        self._interrupted = False
        self._was_cut = False
        self._damaged = False
        self._strayed = False
        self._last_output = time.time()
        self._seen = 0
        self._current: Any = None
        self._lock = threading.Lock()
        self._hung_up = threading.Event()
        self._pump: threading.Thread | None = None

    @classmethod
    def open(cls, client: docker.DockerClient, name: str, *, replay: bool = False) -> Self:
        """Attach to the container `name`; blocks until the engine has answered.

        With `replay`, its log is read from the beginning instead.
        """
        found = client.api.inspect_container(name)
        attachment = cls(client, name, found["HostConfig"]["LogConfig"]["Type"])
        if not replay:
            wanted = {"stdout": 1, "stderr": 1, "stream": 1, "logs": 0}
            attachment._attached = client.api.attach_socket(name, params=wanted)
            attachment._current = attachment._attached
        return attachment

    def copy_to(self, sink: Sink) -> None:
        """Begin to copy, in a thread of its own."""
        self._pump = threading.Thread(
            target=self._copy, args=(sink,), daemon=True, name=f"output of {self._name}"
        )
        self._pump.start()

    def drain(self, seconds: float) -> None:
        """Wait until all has been copied, or nothing came for `seconds`."""
        seen, since = self._seen, time.monotonic()
        while self._pump and self._pump.is_alive() and time.monotonic() - since < seconds:
            self._pump.join(min(_SILENCE_SECONDS, seconds))
            if self._seen == seen:
                self._cut()
            else:
                seen, since = self._seen, time.monotonic()

    def hang_up(self) -> None:
        """End the copying from this side; the thread closes what it has open."""
        self._hung_up.set()
        self._cut()

    def _cut(self) -> None:
        with self._lock, contextlib.suppress(*_CUT):
            if self._current is not None:
                # Shut down, not closed: a close alone does not wake a thread that reads. A
                # duplicate, because the layers of a TLS connection are in use by that thread.
                with socket.socket(fileno=os.dup(self._current.fileno())) as same:
                    same.shutdown(socket.SHUT_RDWR)

    def _copy(self, sink: Sink) -> None:
        if self._attached is not None:
            self._copy_attached(sink)
            self._interrupted = True
            self._await_stop()
            # The engine itself ends a local connection when all is said, or dies, and then does
            # not answer.
            if is_local(self._client) and not self._was_cut:
                self.tailed.complete = True
                return
        with contextlib.suppress(docker.errors.NotFound):
            self._copy_log(sink)

    def _copy_attached(self, sink: Sink) -> None:
        with contextlib.suppress(*_CUT):
            for stream, chunk in frames_iter(self._attached, tty=False):  # type: ignore[no-untyped-call]
                self._seen += len(chunk)
                self._last_output = time.time()
                self._positions[stream].add(chunk)
                sink.write(chunk)
        # docker-py hangs the response on the stream; closing that closes both.
        self._close(getattr(self._attached, "_response", self._attached))

    def _await_stop(self) -> None:
        """Give a container that has ended its output the time to stop."""
        for seconds in _STOPPING_SECONDS:
            with contextlib.suppress(*_CUT, docker.errors.APIError):
                if self._stopped():
                    return
            if self._hung_up.wait(seconds):
                return
        self._was_cut = True

    def _copy_log(self, sink: Sink) -> None:
        """Read the log, again after every cut, until that of the stopped container is through."""
        pause, longest = _PAUSES_SECONDS
        while not self._hung_up.is_set():
            seen = self._seen
            try:
                stopped = self._stopped()
                caught_up = self._read_log(sink, follow=not stopped)
                if stopped and (caught_up or self._strayed or self._is_whole_without_log):
                    self.tailed.complete = not self._damaged
                    return
                if stopped:
                    raise UnlikeLogError
            except UnlikeLogError:
                if self._is_whole_without_log:
                    self.tailed.complete = True
                    return
                self._strayed = self._damaged = True
            except docker.errors.NotFound:
                return
            except _LogUnreadableError:
                self.tailed.complete = self._is_whole_without_log
                return
            except (*_CUT, docker.errors.APIError):
                self._interrupted = self._was_cut = True
            self._hung_up.wait(pause)
            pause = _PAUSES_SECONDS[0] if self._seen > seen else min(2 * pause, longest)

    @property
    def _is_whole_without_log(self) -> bool:
        """Whether there is no sign of a cut: the attached connection then gave everything."""
        return self._attached is not None and not self._was_cut

    def _read_log(self, sink: Sink, *, follow: bool) -> bool:
        """Copy what the log has beyond the positions; whether it had all that was delivered."""
        rewinds = {stream: position.rewind() for stream, position in self._positions.items()}
        response = self._open_log(follow=follow)
        try:
            _require_log(response)
            for stream, chunk in _frames(response.iter_content(64 * 1024)):
                self._seen += len(chunk)
                if stream not in _STREAMS:
                    raise _LogUnreadableError
                self._deliver(sink, rewinds[stream], chunk)
        finally:
            self._close(response)
        return all(rewind.caught_up for rewind in rewinds.values())

    def _deliver(self, sink: Sink, rewind: Rewind, chunk: bytes) -> None:
        fresh = chunk if self._strayed else rewind.fresh(chunk)
        if not fresh:
            return
        if self._interrupted:
            self._interrupted = False
            self.tailed.reconnects += 1
        if self._as_text and REPLACEMENT in fresh:
            # It may stand for a byte that only an attached connection would have given.
            self._damaged = True
        self._last_output = time.time()
        sink.write(fresh)

    def _open_log(self, *, follow: bool) -> requests.Response:
        """The log as frames; docker-py's own reader loses which stream each is of."""
        api = self._client.api
        wanted: dict[str, int | str] = {"stdout": 1, "stderr": 1, "follow": int(follow)}
        if self._strayed:
            wanted["since"] = f"{self._last_output:.6f}"
        response: requests.Response = api.get(
            url(api, f"/containers/{self._name}/logs"),
            params=wanted,
            stream=True,
            timeout=_ANSWER_SECONDS,
        )
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

    def _stopped(self) -> bool:
        state = self._client.api.inspect_container(self._name)["State"]
        not_yet = state["Status"] == "created" and not state["Error"]
        return not (state["Running"] or not_yet)


def _require_log(response: requests.Response) -> None:
    """Raise where this is no log; what a proxy answers for an engine that is away may pass."""
    if response.status_code == HTTPStatus.NOT_FOUND:
        raise docker.errors.NotFound("the container is gone")
    if response.status_code == HTTPStatus.NOT_IMPLEMENTED or response.status_code < 500:
        if not response.ok:
            raise _LogUnreadableError
        return
    response.raise_for_status()


def _frames(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
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
