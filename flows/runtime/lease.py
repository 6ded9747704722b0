"""Lease: how long a process may act for its runs while the server does not hear of its worker.

It counts from the sending of the last heartbeat that the server took, by this machine's own clock,
which also counts while the machine sleeps (CLOCK_BOOTTIME). Other hosts take runs over after a
longer time, counted from when they first saw that heartbeat: by then, nothing acts here.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from flows.runtime.cancellation import Cancellation, CancellationRequested, Reason

# How often those who wait for it look: it is renewed and runs out in other threads than theirs.
_LOOK_SECONDS = 0.25
_PIECE_SECONDS = 2.0
# What is left to stop acting in, of the time after which others take over.
_LEAST_MARGIN_SECONDS, _MARGIN = 15.0, 0.1


def boot_clock() -> float:
    """Seconds since the machine's start, those included in which it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """Held for so many seconds after the sending of a heartbeat; may be asked from any thread."""

    def __init__(self, seconds: float, clock: Callable[[], float] = boot_clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._until = math.inf if math.isinf(seconds) else -math.inf
        self._lost_before = 0.0

    @classmethod
    def under(cls, patience_seconds: float) -> "Lease":
        """One that ends well before others, after so long a silence, take over."""
        margin = max(_LEAST_MARGIN_SECONDS, _MARGIN * patience_seconds)
        return cls(patience_seconds - margin)

    def now(self) -> float:
        """To be asked before a heartbeat is sent; for `renew`."""
        return self._clock()

    def renew(self, sent_at: float) -> None:
        """Count from a heartbeat that was sent at `sent_at` and that the server took."""
        lost_before = self.lost_seconds
        self._until = max(self._until, sent_at + self._seconds)
        self._lost_before = lost_before

    @property
    def seconds_left(self) -> float:
        """0 where it has run out."""
        return max(0.0, self._until - self._clock())

    @property
    def is_held(self) -> bool:
        return self.seconds_left > 0

    @property
    def lost_seconds(self) -> float:
        """For how long it was not held, since it first was."""
        if math.isinf(self._until):
            return 0.0
        return self._lost_before + max(0.0, self._clock() - self._until)

    async def lost(self) -> None:
        """Return once it has run out."""
        while (left := self.seconds_left) > 0:
            # In pieces, as the loop's clock stands still while a machine sleeps.
            await asyncio.sleep(min(left, _PIECE_SECONDS))

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds and for those in which it is not held meanwhile."""
        deadline = self._clock() + seconds - self.lost_seconds
        while (left := deadline + self.lost_seconds - self._clock()) > 0:
            await asyncio.sleep(left)

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """As `asyncio.timeout`, but for the seconds in which it is not held."""
        async with asyncio.timeout(None) as limit:

            async def expire() -> None:
                await self.sleep(seconds)
                limit.reschedule(asyncio.get_running_loop().time())

            expiring = asyncio.ensure_future(expire())
            try:
                yield
            finally:
                expiring.cancel()


# For a process that belongs to no worker of ours, whose runs nobody takes over.
UNBOUNDED = Lease(math.inf)


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to act for one run: the lease, and that nobody has taken the run meanwhile."""

    lease: Lease = UNBOUNDED
    cancellation: Cancellation = field(default_factory=Cancellation)

    async def given(self) -> None:
        """Return once there is leave; raises `CancellationRequested` where the run is to end.

        Whoever renews a lease that had run out asks whose the runs are, before that.
        """
        while True:
            is_held = self.lease.is_held
            if (reason := self.cancellation.reason) is not None:
                raise CancellationRequested(reason)
            if is_held:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def to_tell(self) -> None:
        """The same, before the server is told of the run's end, which a request to end it is part
        of; raises `CancellationRequested` where another host has the run."""
        while not self.lease.is_held:
            await asyncio.sleep(_LOOK_SECONDS)
        if self.cancellation.reason is Reason.TAKEN:
            raise CancellationRequested(Reason.TAKEN)
