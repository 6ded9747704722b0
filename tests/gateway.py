"""A proxy on the way to a server (the Docker Engine, Prefect's API, a store), and its weather.

Put one between a worker and what it talks to, and say what is to happen, and when it is over:

    with Gateway() as engine, Gateway(stack.address) as api:
        settings = {"DOCKER_HOST": engine.url, "PREFECT_API_URL": f"{api.http}/api"}

        engine.cut()                    every connection that is open ends; new ones are served
        with engine.refusing(): ...     what is open ends, and nobody listens: ECONNREFUSED
        with engine.hanging(): ...      all connect and nothing goes through; afterwards it goes on
        with engine.delaying(0.2): ...  each piece of each answer arrives so much later
        engine.refuse(), engine.hang(), engine.delay(0.2), engine.clear()       the same by hand

A request is met by a part of it, body included (`b"POST /api/artifacts/"`, `b'"type":"PENDING"'`);
each block gives `Asked`, an event that is set by the first, with all `requests` that were met:

    with api.noting(b"/set_state") as asked: ...            goes through
    with api.holding(b"/start ") as asked: ...              never comes through
    with api.pausing(b"/start ") as asked: ...              goes through when the block ends
    with api.losing_answer(b"/set_state") as asked: ...     is done, but its answer never arrives
    with api.losing_answer(b"/set_state", part=0.5): ...    half of its answer, and a cut
    with engine.saying("POST .*/start", Said(503, "")): ... is answered here, as by a proxy

`Gateway(life_seconds=5)` cuts each connection after so long, as some proxies do. It listens on a
port of loopback, on `at=port`, or with `at=path` on a socket there.
"""

import contextlib
import math
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.doors import Door, connected
from tests.gateway_rules import NOT_HERE, Asked, Rules, Way
from tests.http_stream import PIECE, Said, beginning, requests

__all__ = ["ENGINE", "NOT_HERE", "Asked", "Gateway", "Said"]

ENGINE = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


class Gateway(Rules):
    """Forwards what connects to `to`, an address such as `unix:///path` or `http://host:port`."""

    def __init__(
        self,
        to: str = ENGINE,
        *,
        at: int | Path = 0,
        life_seconds: float = math.inf,
        lives: float = math.inf,
    ) -> None:
        """After `lives` connections that ended by their `life_seconds` the others last."""
        super().__init__()
        self._to = to
        self._door = Door(at)
        self._life_seconds, self._lives = life_seconds, lives
        self._ways: set[Way] = set()
        self._threads: list[threading.Thread] = []
        self._flows = threading.Event()
        self._delay_seconds = 0.0

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return self._door.port

    @property
    def url(self) -> str:
        """For DOCKER_HOST."""
        return self._door.url

    @property
    def http(self) -> str:
        """For those who speak HTTP."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open."""
        with self._lock:
            return len(self._ways)

    def cut(self) -> None:
        """End all connections."""
        with self._lock:
            for way in self._ways:
                way.cut()

    def refuse(self) -> None:
        """Listen no more, and end all connections."""
        self._door.shut()
        self.cut()

    def hang(self) -> None:
        """Let everybody connect, and nothing through."""
        self._flows.clear()

    def delay(self, seconds: float) -> None:
        """Let each piece of an answer wait."""
        self._delay_seconds = seconds

    def clear(self) -> None:
        """Fair weather."""
        self._delay_seconds = 0.0
        self._flows.set()
        if listener := self._door.open():
            self._spawn(self._accept, listener)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        with self._cleared():
            self.refuse()
            yield

    @contextmanager
    def hanging(self) -> Iterator[None]:
        with self._cleared():
            self.hang()
            yield

    @contextmanager
    def delaying(self, seconds: float) -> Iterator[None]:
        with self._cleared():
            self.delay(seconds)
            yield

    def __enter__(self) -> Self:
        self.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._flows.set()
        self.refuse()
        for thread in self._threads:
            thread.join(10)
        self._door.remove()

    @contextmanager
    def _cleared(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.clear()

    def _spawn(self, target: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        with listener, contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), connected(self._to) as server:
            way = Way(client, server)
            with self._aging(way), self._open(way):
                back = self._spawn(self._answer, way)
                with contextlib.suppress(OSError):
                    self._ask(way)
                way.cut()
                back.join()

    @contextmanager
    def _open(self, way: Way) -> Iterator[None]:
        with self._lock:
            self._ways.add(way)
        if self._door.is_shut:
            way.cut()
        try:
            yield
        finally:
            with self._lock:
                self._ways.remove(way)

    @contextmanager
    def _aging(self, way: Way) -> Iterator[None]:
        if self._life_seconds == math.inf:
            yield
            return
        life = threading.Timer(self._life_seconds, self._end, [way])
        life.start()
        try:
            yield
        finally:
            life.cancel()
            life.join()

    def _end(self, way: Way) -> None:
        with self._lock:
            self._lives -= 1
            if self._lives >= 0:
                way.cut()

    def _ask(self, way: Way) -> None:
        for piece in requests(way.client):
            self.meet(way, piece)
            self._flows.wait()
            way.server.sendall(piece)

    def _answer(self, way: Way) -> None:
        with contextlib.suppress(OSError):
            while data := way.server.recv(PIECE):
                if way.part is not None:
                    data = beginning(data, way.server, way.part)
                if self._over.wait(self._delay_seconds):
                    break
                self._flows.wait()
                way.client.sendall(data)
                if way.part is not None:
                    break
        way.cut()
