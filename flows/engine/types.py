"""What an engine tells: of an image, a container (its state, end and usage), and itself; and, as
data, the container that chowns a job's folder to a worker that is not root.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple, Self, TypeVar

from flows.exit_code import signal_of
from flows.spec import LABEL_EXPIRES_AT, LABEL_JOB_ID, Mount

N = TypeVar("N", int, float)
MAX_POINTS = 600
# Two hundred thousand files take two.
RECLAIM_SECONDS = 120.0
# For any POSIX shell with find and awk. It gets the user and the group as the namespace around
# this one numbers them. Neither links nor devices are touched: a device that belonged to the
# worker would be one that it may open. A path that grows too long for the system goes on from the
# folder that it has got to; the shell's own note of where it is would soon be too long as well.
SCRIPT = r"""
inside() {
  awk -v id="$1" '$2 <= id && id < $2 + $3 { printf "%.0f", id - $2 + $1 }' "/proc/self/$2_map"
}
export uid=$(inside "$1" uid) gid=$(inside "$2" gid) LC_ALL=C
[ -n "$uid" ] && [ -n "$gid" ] || { echo "the engine knows no user $1 or no group $2"; exit 1; }
export far="$(printf '%3700s' | tr ' ' '?')*"
export walk='exec find . \
  -type d -path "$far" -prune \
    -exec sh -c "cd -P \"\$1\" && unset PWD OLDPWD && eval \"\$walk\"" sh {} \; \
  -o \( -type d \( ! -user "$uid" -o ! -perm -700 \) \
    -o -type f \( ! -user "$uid" -o ! -perm -400 -o -perm /6000 \) \) \
    -exec chown -h "$uid:$gid" {} + -exec chmod u+rwX {} + \
    -type f -exec chmod a-s {} +'
cd "$3" || exit 1
problems=$( (eval "$walk") 2>&1 | tail -c 300)
[ -z "$problems" ] || { echo "$problems"; exit 1; }
"""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What happened to one container in a window of time, by the engine's own record.

    `signals` are those sent through the engine, in their order; none of the kernel's or of another
    process of the host. `exit_code` is None where no end is on record: engines keep the last 256
    events of all their containers, so its absence proves nothing.
    """

    signals: tuple[int, ...] = ()
    oom: bool = False
    exit_code: int | None = None
    destroyed: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is present on the engine. `digest` is empty for one that was never pulled.

    `platform` is what it is made for, such as `linux/arm64/v8`. The rest says how it came; None
    where nobody knows.
    """

    id: str
    digest: str = ""
    platform: str = ""
    cache_hit: bool | None = None
    pulled_bytes: int | None = None
    pull_seconds: float | None = None
    # Who its containers are, where a spec does not say, and how many of git's settings they have in
    # their environment. Last, as an earlier version noted none.
    user: str = ""
    git_config_count: str = ""


@dataclass(frozen=True, slots=True)
class Pong:
    """Who answered a ping; `now` is its clock, if it tells, when this host's said `asked_at`."""

    address: str
    is_local: bool
    server: str
    api_version: str
    now: datetime | None
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What a fresh inspect says. `error` is the engine's own word on a failed start; one that is
    `paused` is running too."""

    running: bool
    exit_code: int | None
    oom_killed: bool
    error: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    paused: bool = False

    @property
    def signal(self) -> int | None:
        """The signal that ended the container's process, as its exit code tells it."""
        return signal_of(self.exit_code)


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


@dataclass(frozen=True, slots=True)
class Owner:
    """A user and a group, by the numbers of the user namespace around this process's own."""

    uid: int
    gid: int

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        """Whoever owns what this process makes in `folder`."""
        found = folder.stat()
        gid = found.st_gid if found.st_mode & stat.S_ISGID else os.getegid()
        return cls(outer_id(os.geteuid(), _id_map("uid")), outer_id(gid, _id_map("gid")))


@dataclass(frozen=True, slots=True)
class HelperImage:
    """The image that gives files back, by the name that an operator chose."""

    image: str
    pull: Literal["if-missing", "never"] = "if-missing"
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class Reclaim:
    """A container that makes everything in one folder its `owner`'s, decided before it exists.
    Without an `image_id`, its image is resolved by name."""

    name: str
    image: str
    mount: Mount
    owner: Owner
    labels: Mapping[str, str]
    image_id: str = ""

    @property
    def job_id(self) -> str:
        return self.labels[LABEL_JOB_ID]

    @property
    def command(self) -> tuple[str, ...]:
        numbers = (str(self.owner.uid), str(self.owner.gid))
        return ("sh", "-c", SCRIPT, "reclaim", *numbers, self.mount.target)


def plan_reclaim(
    name: str, mount: Mount, image: str, owner: Owner, labels: Mapping[str, str], now: datetime
) -> Reclaim:
    """The container for the folder of a container `name`, whose job has these `labels`."""
    times = {
        "moonmind.created_at": now.isoformat(),
        LABEL_EXPIRES_AT: (now + timedelta(hours=1)).isoformat(),
    }
    return Reclaim(f"{name}-files", image, mount, owner, {**labels, **times})


def outer_id(number: int, table: str) -> int:
    """The number of a user or group outside of the user namespace of which `table` is the map."""
    for line in table.splitlines():
        inner, outer, count = map(int, line.split())
        if inner <= number < inner + count:
            return number - inner + outer
    return number


def _id_map(kind: str) -> str:
    try:
        return Path(f"/proc/self/{kind}_map").read_text()
    except OSError:
        return ""
