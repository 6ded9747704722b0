"""What a container used of its host: one receipt, and its life in at most 600 points. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

N = TypeVar("N", int, float)

MAX_POINTS = 600


@dataclass(frozen=True, slots=True)
class Usage:
    """What the samples saw, so all are lower bounds; None where no sample told.

    Memory does not count page cache that the kernel could drop. Block bytes are None also where
    the kernel accounts for none. Of `peak_pids`, threads count as well, as for their limit.
    """

    peak_memory_bytes: int | None = None
    cpu_seconds: float | None = None
    block_read_bytes: int | None = None
    block_write_bytes: int | None = None
    network_received_bytes: int | None = None
    network_sent_bytes: int | None = None
    samples: int = 0
    # Last, as what an earlier version noted has none.
    peak_pids: int | None = None


class Point(NamedTuple):
    """One moment of a container's life; seconds count from the start of the sampling."""

    seconds: float
    memory_bytes: int | None
    cpu_seconds: float | None


class Series:
    """At most `MAX_POINTS` points; when full, each two become one, with the higher memory."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._samples_a_point = 1
        self._samples = 0

    @property
    def points(self) -> tuple[Point, ...]:
        """The points so far, oldest first."""
        return tuple(self._points)

    def add(self, point: Point) -> None:
        """Take the next point."""
        if self._samples % self._samples_a_point:
            self._points[-1] = _merged(self._points[-1], point)
        else:
            if len(self._points) == MAX_POINTS:
                self._points = _halved(self._points)
                self._samples_a_point *= 2
            self._points.append(point)
        self._samples += 1


def _halved(points: Sequence[Point]) -> list[Point]:
    """Each two points as one, which keeps the higher memory."""
    alone = points[len(points) // 2 * 2 :]
    return [*map(_merged, points[::2], points[1::2]), *alone]


def thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """At most so many points of the same life, with its highest memory."""
    while len(points) > most:
        points = _halved(points)
    return points


def highest(seen: N | None, now: N | None) -> N | None:
    """The higher one of those that are known."""
    return max((value for value in (seen, now) if value is not None), default=None)


def _merged(earlier: Point, later: Point) -> Point:
    return later._replace(memory_bytes=highest(earlier.memory_bytes, later.memory_bytes))
