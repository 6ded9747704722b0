"""The output stream of one container: attached, read in a thread of its own, hung up at the end."""

import contextlib
import socket
import threading
from typing import Any, Self

import docker
import requests.exceptions
from docker.utils.socket import frames_iter

from flows.execution import Sink


class Attachment:
    """A live connection to a container's stdout and stderr, copied to a sink as it comes.

    A connection that breaks ends the copy, not the task: completion comes from the container's
    state, never from the end of this stream.
    """

    def __init__(self, connection: Any, name: str) -> None:
        self._connection = connection
        self._name = name
        self._pump: threading.Thread | None = None

    @classmethod
    def open(cls, client: docker.DockerClient, name: str) -> Self:
        """Attach to the container `name`; blocks until the engine has answered."""
        wanted = {"stdout": 1, "stderr": 1, "stream": 1, "logs": 0}
        return cls(client.api.attach_socket(name, params=wanted), name)

    def copy_to(self, sink: Sink) -> None:
        """Begin to copy, in a thread of its own."""
        self._pump = threading.Thread(
            target=self._copy, args=(sink,), daemon=True, name=f"output of {self._name}"
        )
        self._pump.start()

    def drain(self, seconds: float) -> None:
        """Wait until the stream has ended, at most `seconds`."""
        if self._pump:
            self._pump.join(seconds)

    def hang_up(self) -> None:
        """End the stream from this side; the thread, which may wait in it, closes it."""
        # Behind TLS the connection is the socket itself; one that is closed has let go of it.
        raw = getattr(self._connection, "_sock", self._connection)
        # Shut down, not closed: a close alone does not wake a thread that polls the socket.
        with contextlib.suppress(OSError):
            if raw is not None:
                raw.shutdown(socket.SHUT_RDWR)

    def _copy(self, sink: Sink) -> None:
        with contextlib.suppress(OSError, ValueError, requests.exceptions.RequestException):
            for _, chunk in frames_iter(self._connection, tty=False):  # type: ignore[no-untyped-call]
                sink.write(chunk)
        self._close()

    def _close(self) -> None:
        # docker-py hangs the response on the stream; closing that closes both.
        response = getattr(self._connection, "_response", self._connection)
        with contextlib.suppress(OSError):
            response.close()
