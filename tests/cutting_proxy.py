"""A TCP proxy in front of the Docker Engine that cuts its connections, as some proxies do."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

SOCKET = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")


class CuttingProxy:
    """Forwards to the engine and cuts every connection `seconds` after it was made.

    After `cuts` connections that ended this way it forwards without an end. While `refusing` it
    closes what is opened at once.
    """

    def __init__(self, seconds: float, cuts: int = 10**6) -> None:
        self._seconds = seconds
        self._cuts_left = cuts
        self._refusing_until = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def connections(self) -> int:
        """Now open, from the side of the client."""
        with self._lock:
            return len(self._open) // 2

    def refuse(self, seconds: float) -> None:
        """Cut all that is open, and for so long whatever is opened."""
        self._refusing_until = time.monotonic() + seconds
        with self._lock:
            for each in self._open:
                shut(each)

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        shut(self._listener)
        with self._lock:
            for each in self._open:
                shut(each)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _spawn(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if time.monotonic() < self._refusing_until:
                client.close()
                continue
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as engine:
            engine.connect(SOCKET)
            with self._lock:
                self._open |= {client, engine}
            cut = threading.Timer(self._seconds, self._cut, (client, engine))
            cut.start()
            back = threading.Thread(target=forward, args=(engine, client), daemon=True)
            back.start()
            forward(client, engine)
            back.join()
            cut.cancel()
            cut.join()
            with self._lock:
                self._open -= {client, engine}

    def _cut(self, *both: socket.socket) -> None:
        with self._lock:
            if self._cuts_left <= 0:
                return
            self._cuts_left -= 1
        for each in both:
            shut(each)


def forward(
    source: socket.socket,
    target: socket.socket,
    look_at: Callable[[bytes], None] = lambda data: None,
) -> None:
    """Copy until one side ends; `look_at` sees everything before it is sent on."""
    with contextlib.suppress(OSError):
        while data := source.recv(64 * 1024):
            look_at(data)
            target.sendall(data)
    # Engine and client end a connection as a whole, so neither waits for the other's half.
    shut(source)
    shut(target)


def shut(either: socket.socket) -> None:
    """End both directions; whoever reads from it wakes up."""
    with contextlib.suppress(OSError):
        either.shutdown(socket.SHUT_RDWR)
