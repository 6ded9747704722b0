"""What a gateway does with requests that it is told to look for."""

import contextlib
import math
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.http_stream import PIECE, Said, call_of

NOT_HERE = Said(403, '{"message":"not here"}', "application/json")


class Asked(threading.Event):
    """Set when the first request is met."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[bytes] = []


@dataclass(eq=False)
class Way:
    """The two ends of a connection, and how much of the next answer is to arrive."""

    client: socket.socket
    server: socket.socket
    part: float | None = None

    def cut(self) -> None:
        """End both directions of both; whoever reads from them wakes up."""
        for each in (self.client, self.server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@dataclass(eq=False)
class _Rule:
    """What is done with the requests that it meets, `times` at most."""

    meets: Callable[[bytes], bool]
    do: Callable[[Way], object]
    times: float
    asked: Asked = field(default_factory=Asked)


class Rules:
    """The rules in force, each for the length of a block: `tests.gateway` tells of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._rules: list[_Rule] = []

    @contextmanager
    def noting(self, needle: bytes) -> Iterator[Asked]:
        with self._ruled(_Rule(_has(needle), lambda way: None, math.inf)) as asked:
            yield asked

    @contextmanager
    def holding(self, needle: bytes, times: float = 1) -> Iterator[Asked]:
        """It is held to the end of the gateway; what is met after the block goes through."""
        with self._ruled(_Rule(_has(needle), self._hold, times)) as asked:
            yield asked

    @contextmanager
    def pausing(self, needle: bytes, times: float = 1) -> Iterator[Asked]:
        ended = threading.Event()
        with self._ruled(_Rule(_has(needle), lambda way: ended.wait(), times)) as asked:
            try:
                yield asked
            finally:
                ended.set()

    @contextmanager
    def losing_answer(self, needle: bytes, times: float = 1, *, part: float = 0) -> Iterator[Asked]:
        def lose(way: Way) -> None:
            way.part = part

        with self._ruled(_Rule(_has(needle), lose, times)) as asked:
            yield asked

    @contextmanager
    def saying(self, calls: str, said: Said = NOT_HERE, times: float = math.inf) -> Iterator[Asked]:
        """`calls` is a pattern for the whole of such as `POST /containers/x/start`."""

        def say(way: Way) -> None:
            way.client.sendall(said.written())
            way.client.shutdown(socket.SHUT_WR)
            # A reset, which is what an end with something unread is, could overtake the answer.
            while way.client.recv(PIECE):
                pass
            raise ConnectionError("answered here")

        rule = _Rule(lambda request: bool(re.fullmatch(calls, call_of(request))), say, times)
        with self._ruled(rule) as asked:
            yield asked

    def meet(self, way: Way, request: bytes) -> None:
        """Do what is to be done with a request; an OSError cuts its connection."""
        with self._lock:
            met = [rule for rule in self._rules if rule.times > 0 and rule.meets(request)]
            for rule in met:
                rule.times -= 1
                rule.asked.requests.append(request)
                rule.asked.set()
        for rule in met:
            rule.do(way)

    @contextmanager
    def _ruled(self, rule: _Rule) -> Iterator[Asked]:
        with self._lock:
            self._rules.append(rule)
        try:
            yield rule.asked
        finally:
            with self._lock:
                self._rules.remove(rule)

    def _hold(self, _: Way) -> None:
        self._over.wait()
        raise ConnectionError("held to the end")


def _has(needle: bytes) -> Callable[[bytes], bool]:
    return lambda request: needle in request
