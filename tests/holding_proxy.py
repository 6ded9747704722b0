"""A TCP proxy that holds back the requests that it is told to."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from tests.cutting_proxy import SOCKET, forward, shut


def to_engine() -> socket.socket:
    """A connection to the Docker Engine."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(SOCKET)
    return connection


def to_port(port: int) -> Callable[[], socket.socket]:
    """Connections to a port on loopback."""
    return lambda: socket.create_connection(("127.0.0.1", port))


class HoldingProxy:
    """Forwards what it gets to `connect()`, but for requests that are to be held: they never
    come through."""

    def __init__(self, connect: Callable[[], socket.socket], port: int = 0) -> None:
        """Listens on any `port`, or on the one given."""
        self._connect = connect
        self._held: dict[bytes, tuple[threading.Event, float]] = {}
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return int(self._listener.getsockname()[1])

    @contextmanager
    def holding(self, needle: bytes, times: float = 1) -> Iterator[threading.Event]:
        """For the length of the block, hold the first `times` requests with `needle` in them;
        the event tells of the first."""
        held = threading.Event()
        self._held[needle] = held, times
        try:
            yield held
        finally:
            del self._held[needle]

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in (self._listener, *self._open):
            shut(each)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _spawn(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, self._connect() as server:
            self._open += [client, server]
            back = threading.Thread(target=forward, args=(server, client), daemon=True)
            back.start()
            forward(client, server, self._hold)
            back.join()

    def _hold(self, data: bytes) -> None:
        for needle, (held, times) in list(self._held.items()):
            if needle in data and times > 0:
                self._held[needle] = held, times - 1
                held.set()
                self._over.wait()
                raise OSError("held to the end")
