"""Ask an engine again (tenacity) for as long as it is out of reach: silence is no answer.

What became of a container only its engine can say, so a run waits for that, at most until the
container's own death date, by the monotonic clock.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from flows.engine.contract import Engine
from flows.errors import EngineSilent, EngineUnavailable
from flows.spec import ContainerSpec, seconds_to_live
from flows.threads import apart

T = TypeVar("T")
# How long an engine that answers may fail by faults of its own, as one does that shuts down; and
# how long one that is out of reach is waited for while nothing of the run is on it.
PATIENCE_SECONDS = 60.0
# How long an end that somebody waits for is held up by an engine that is out of reach.
CANCEL_SECONDS = 10.0
# What is asked near the end of a wait gets so long for its answer.
_ANSWER_SECONDS = 10.0
# After which a request for the end of a container is no longer believed to be on its way.
_LOOK_SECONDS = 5.0
_SHORTEST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0


class Told(Protocol):
    """Hears, from any thread, that the engine is out of reach, and that it is back."""

    def away(self, error: EngineSilent) -> None:
        """Once an absence, at its beginning."""

    def back(self, seconds: float) -> None:
        """It answers again, after so long."""


class Nobody:
    """For those who tell of no absence."""

    def away(self, error: EngineSilent) -> None: ...

    def back(self, seconds: float) -> None: ...


class EngineWait:
    """How long one attempt waits for its engine, which may be out of reach more than once."""

    def __init__(self, seconds: float, told: Told | None = None) -> None:
        self._until = time.monotonic() + seconds
        self._told = told or Nobody()

    @classmethod
    def of(cls, spec: ContainerSpec, told: Told | None = None) -> "EngineWait":
        """Until the death date of the container."""
        return cls(seconds_to_live(spec, datetime.now(UTC)), told)

    def shorten(self, seconds: float) -> None:
        """Wait no longer than so many seconds from now."""
        self._until = min(self._until, time.monotonic() + seconds)

    def at_most(self, seconds: float) -> "EngineWait":
        """The same, for so many seconds from now."""
        return EngineWait(min(seconds, self._until - time.monotonic()), self._told)

    async def ask(
        self, question: Callable[[], Awaitable[T]], *, brief: bool = False, is_long: bool = False
    ) -> T:
        """What the engine answers, asked until it does; what `is_long` may take its time.

        Raises `EngineSilent` when the time is up, and `EngineUnavailable` where it failed by faults
        of its own for a minute; with `brief`, after a minute of silence, and at the first fault.
        """
        absence = _Absence(self._until, self._told, brief=brief)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(EngineUnavailable),
            wait=wait_exponential(multiplier=_SHORTEST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS),
            stop=absence.is_too_long,
            before_sleep=absence.note,
            reraise=True,
        )

        async def asked() -> T:
            if is_long:
                return await question()
            limit = max(_ANSWER_SECONDS, self._until - time.monotonic())
            return await _answered_within(limit, question)

        answer: T = await retrying(asked)
        absence.end()
        return answer

    async def stop(self, engine: Engine, spec: ContainerSpec) -> None:
        """Stop the container, for as long as its engine is heard of: a grace may be long."""
        await self.ask(lambda: _stopped(engine, spec), is_long=True)


class _Absence:
    """How long one question has not been answered, and for which reason."""

    def __init__(self, until: float, told: Told, *, brief: bool) -> None:
        self._until = until
        self._told = told
        self._is_brief = brief
        self._silent_since: float | None = None
        self._failing_since: float | None = None

    def is_too_long(self, state: RetryCallState) -> bool:
        now = time.monotonic()
        if not isinstance(_error(state), EngineSilent):
            self._failing_since = self._failing_since or now
            is_long = now - self._failing_since >= PATIENCE_SECONDS
            return self._is_brief or is_long or now >= self._until
        is_long = now - (self._silent_since or now) >= PATIENCE_SECONDS
        return now >= self._until or (self._is_brief and is_long)

    def note(self, state: RetryCallState) -> None:
        error = _error(state)
        if not isinstance(error, EngineSilent):
            return
        # One that shut down, and fails anew while it starts, has not failed all that time.
        self._failing_since = None
        if self._silent_since is None:
            self._silent_since = time.monotonic()
            self._told.away(error)

    def end(self) -> None:
        if self._silent_since is not None:
            self._told.back(time.monotonic() - self._silent_since)


class Again:
    """Pauses before a request is made again that an engine lost which answers others: ever longer,
    and for a minute in all, however long the engine was away in between."""

    def __init__(self) -> None:
        self._pause = _SHORTEST_PAUSE_SECONDS
        self._left = PATIENCE_SECONDS

    async def after(self, lost: EngineSilent) -> None:
        """Pause, once more. Raises `EngineUnavailable` when the minute is over."""
        if self._left <= 0.0:
            raise EngineUnavailable(str(lost)) from lost
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        self._left -= pause
        await asyncio.sleep(pause)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


async def _stopped(engine: Engine, spec: ContainerSpec) -> None:
    stopping = apart(engine.stop(spec))
    # Where nobody waits for it any more, nobody misses its error.
    stopping.add_done_callback(lambda done: done.cancelled() or done.exception())
    while not (await asyncio.wait([stopping], timeout=_LOOK_SECONDS))[0]:
        await _answered_within(_LOOK_SECONDS, lambda: clock(engine))
    stopping.result()


async def _answered_within(seconds: float, question: Callable[[], Awaitable[T]]) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await question()
    except TimeoutError:
        raise EngineSilent(f"Docker does not answer: nothing came for {seconds:.0f} s") from None


async def clock(engine: Engine) -> datetime:
    """The engine's own time, which alone its containers' times are compared with. Raises
    `EngineSilent`."""
    pong = await engine.ping()
    return pong.now or pong.asked_at
