"""What a container used of its host: Docker's stats samples, added up in one receipt. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

N = TypeVar("N", int, float)

Sample = Mapping[str, Any]
"""One answer of `GET /containers/x/stats`, of an engine on cgroup v1 or v2."""

MAX_POINTS = 600


@dataclass(frozen=True, slots=True)
class Usage:
    """What the samples saw; None where no sample told.

    All are lower bounds: what happens between two samples, or after the last, goes unseen.
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
    """At most `MAX_POINTS` points of a life of any length.

    When full, each two points become one, which keeps the higher memory: a peak stays visible.
    """

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
            self._make_room()
            self._points.append(point)
        self._samples += 1

    def _make_room(self) -> None:
        if len(self._points) == MAX_POINTS:
            self._points = _halved(self._points)
            self._samples_a_point *= 2


def _halved(points: Sequence[Point]) -> list[Point]:
    """Each two points as one, which keeps the higher memory."""
    alone = points[len(points) // 2 * 2 :]
    return [*map(_merged, points[::2], points[1::2]), *alone]


def thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """At most so many points of the same life, with its highest memory."""
    while len(points) > most:
        points = _halved(points)
    return points


def add(usage: Usage, sample: Sample) -> Usage:
    """`usage` with one more sample."""
    if not was_running(sample):
        return usage
    received, sent = _network_bytes(sample, "rx_bytes"), _network_bytes(sample, "tx_bytes")
    return Usage(
        peak_memory_bytes=_most(usage.peak_memory_bytes, memory_bytes(sample)),
        cpu_seconds=_most(usage.cpu_seconds, cpu_seconds(sample)),
        block_read_bytes=_most(usage.block_read_bytes, _block_bytes(sample, "read")),
        block_write_bytes=_most(usage.block_write_bytes, _block_bytes(sample, "write")),
        network_received_bytes=_most(usage.network_received_bytes, received),
        network_sent_bytes=_most(usage.network_sent_bytes, sent),
        samples=usage.samples + 1,
        peak_pids=_most(usage.peak_pids, (sample.get("pids_stats") or {}).get("current")),
    )


def moment(sample: Sample) -> float | None:
    """When the sample was taken, in seconds by the engine's clock; None where it does not say."""
    try:
        return datetime.fromisoformat(str(sample.get("read"))).timestamp()
    except ValueError:
        return None


def was_running(sample: Sample) -> bool:
    """Whether the sample is of a running container: of others the engine sends zeros, read at
    the zero time."""
    return not str(sample.get("read", "")).startswith("0001-")


def memory_bytes(sample: Sample) -> int | None:
    """Memory in use, as `docker stats` counts it: without inactive page cache.

    The `max_usage` of cgroup v1 is left alone: it includes the page cache of its moment, which
    nothing tells afterwards, so a task that only copies files would seem to need its whole limit.
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


def _most(seen: N | None, now: N | None) -> N | None:
    return max((value for value in (seen, now) if value is not None), default=None)


def _merged(earlier: Point, later: Point) -> Point:
    return later._replace(memory_bytes=_most(earlier.memory_bytes, later.memory_bytes))
