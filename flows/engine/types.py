"""What an engine tells: of an image, a container's state, its end, and itself."""

from dataclasses import dataclass
from datetime import datetime

from flows.exit_code import signal_of


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
    """What a fresh inspect says. `error` is the engine's own word on a failed start."""

    running: bool
    exit_code: int | None
    oom_killed: bool
    error: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def signal(self) -> int | None:
        """The signal that ended the container's process, as its exit code tells it."""
        return signal_of(self.exit_code)
