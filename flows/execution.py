"""Run one container: the contract of an engine, the order of its steps, and the outcome.

Knows no Docker and no Prefect. `run` is the only caller of an engine's steps for a task; whatever
happens in between, it destroys what the spec names before it returns.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from flows.errors import EngineError, Rejected
from flows.evidence import Evidence
from flows.outcomes import (
    CANCELED_EARLY,
    KILLED,
    ContainerState,
    Image,
    Outcome,
    StoppedBy,
    judge,
    missing_workdir,
    outcome_of,
)
from flows.spec import ContainerSpec
from flows.usage import Usage

T = TypeVar("T")

_OOM_NEWS_SECONDS = 0.2


class HandedOver(Exception):
    """The caller was cancelled and the container is left running for whoever adopts it."""


class Sink(Protocol):
    """Takes container output as it comes. Called from any one thread at a time; never raises."""

    def write(self, chunk: bytes) -> None:
        """Take the next bytes of the merged stdout and stderr."""


@dataclass(slots=True)
class Tailed:
    """What became of a container's output, known after the block of `Engine.tail`.

    `reconnects` counts the breaks of the connection that output followed. `complete` says that
    the sink has taken everything unchanged; false where the engine could not give it any more.
    """

    reconnects: int = 0
    complete: bool = False


@dataclass(slots=True)
class Measured:
    """What a container used, known after the block of `Engine.measured`."""

    usage: Usage = field(default_factory=Usage)


class Engine(Protocol):
    """What runs containers. Every method takes the spec; none returns a handle.

    Each method raises `EngineError` (or a subclass) and nothing else, and may be called from any
    process: names are known before the objects exist.
    """

    async def find(self, spec: ContainerSpec) -> bool:
        """Whether a container made for this very spec exists: name, job and fingerprint agree."""

    async def pull(self, spec: ContainerSpec) -> Image:
        """Make the image present as `spec.pull` says. Raises `ImageError`, also where the
        registry reports the failure in the middle of a successful response."""

    async def create(self, spec: ContainerSpec, image: Image) -> None:
        """Create the container, and what it needs, without starting it.

        Raises `EngineRefused` where the engine will not make it as specified, `Rejected` where
        it would mount what is not the task's; whatever was made is `destroy`'s to remove."""

    async def missing_workdir(self, spec: ContainerSpec) -> bool:
        """Whether the created container's image has no folder at `spec.workdir`."""

    def tail(
        self, spec: ContainerSpec, sink: Sink, *, replay: bool = False
    ) -> AbstractAsyncContextManager[Tailed]:
        """Copy the container's output to `sink`; with `replay`, everything that the container
        ever wrote comes first.

        Entered between `create` and `start`, nothing is lost; left after the container has
        stopped, everything has been written. The order of each stream is kept. Bytes arrive
        unchanged. A connection that breaks is taken up again where it was; the value tells."""

    async def start(self, spec: ContainerSpec) -> None:
        """Start the created container. A command that cannot be run is no error: `inspect` then
        tells of a container that has ended with 126 or 127 and why."""

    async def wait(self, spec: ContainerSpec, seconds: float) -> bool:
        """Wait until the container has stopped, at most `seconds`; whether it has.

        Raises `ContainerGone` where there is none any more."""

    async def stop(self, spec: ContainerSpec) -> None:
        """SIGTERM, `spec.stop_grace_seconds`, SIGKILL; returns when the container has stopped.
        Safe on one that has stopped already or is gone."""

    async def inspect(self, spec: ContainerSpec) -> ContainerState:
        """The state as the engine tells it now, never a remembered one.

        Raises `ContainerGone` where there is none."""

    def measured(self, spec: ContainerSpec) -> AbstractAsyncContextManager[Measured]:
        """Sample what the container uses while the block runs. Never fails a task: an engine
        that tells nothing leaves a `Usage` that says so."""

    async def evidence(self, spec: ContainerSpec, since: datetime) -> Evidence:
        """What the engine's own events say of the container's end. Empty where they are gone."""

    async def destroy(self, spec: ContainerSpec) -> None:
        """Remove everything that `create` makes for this spec, running or not.

        Safe at any time, any number of times, also after a `create` that failed half-way or in
        another process. Never touches an object without this job's label."""


async def run(
    engine: Engine,
    spec: ContainerSpec,
    sink: Sink,
    *,
    adopt: bool = False,
    must_stop: Callable[[], Awaitable[bool]] | None = None,
) -> Outcome:
    """Run the container of `spec` to its end and leave nothing of it behind.

    With `adopt`, the container exists already (an earlier process made it) and is taken over: its
    output comes whole, its time limit counts from its own start.

    Returns an outcome for everything a task or an engine can do. When the caller is cancelled,
    `must_stop` decides (without it: yes): yes stops the container and returns `canceled`; no
    leaves it running for whoever adopts it, and raises the cancellation.
    """
    stages: dict[str, float] = {}
    image: Image | None = None
    try:
        if adopt:
            outcome = await _watch(engine, spec, sink, stages, must_stop, adopt=True)
        else:
            with _timed(stages, "pull"):
                image = await engine.pull(spec)
            with _timed(stages, "create"):
                await engine.create(spec, image)
            outcome = await _watch(engine, spec, sink, stages, must_stop, adopt=False)
    except (EngineError, Rejected) as error:
        outcome = outcome_of(error)
    except asyncio.CancelledError:
        if not await _decides(must_stop):
            raise
        outcome = CANCELED_EARLY
    except HandedOver as handed_over:
        raise asyncio.CancelledError from handed_over
    except BaseException:
        await _destroy(engine, spec)
        raise
    cleanup_error = await _destroy(engine, spec)
    return replace(outcome, image=image, cleanup_error=cleanup_error, stages=stages)


async def finish(engine: Engine, spec: ContainerSpec, sink: Sink, unfinished: Outcome) -> Outcome:
    """End the attempt of a process that is no more, and leave nothing of it behind.

    A container that has ended by itself tells the truth about it; for one that still runs, or is
    gone, the outcome is `unfinished`.
    """
    try:
        outcome = await _finish(engine, spec, sink, unfinished)
    except EngineError as error:
        outcome = replace(unfinished, cleanup_error=str(error))
    return replace(outcome, cleanup_error=await _destroy(engine, spec))


async def _finish(engine: Engine, spec: ContainerSpec, sink: Sink, unfinished: Outcome) -> Outcome:
    if not await engine.find(spec):
        return unfinished
    async with engine.tail(spec, sink, replay=True) as tailed:
        ran_on = (await engine.inspect(spec)).running
        if ran_on:
            await engine.stop(spec)
    if (await engine.inspect(spec)).started_at is None:
        return unfinished
    ended = replace(
        await _judged(engine, spec, StoppedBy.CANCEL if ran_on else StoppedBy.CONTAINER),
        log_reconnects=tailed.reconnects,
        log_complete=tailed.complete,
    )
    if not ran_on:
        return ended
    return replace(
        ended,
        name=unfinished.name,
        failure_class=unfinished.failure_class,
        error=unfinished.error,
        stopped_by=unfinished.stopped_by,
    )


async def _watch(
    engine: Engine,
    spec: ContainerSpec,
    sink: Sink,
    stages: dict[str, float],
    must_stop: Callable[[], Awaitable[bool]] | None,
    *,
    adopt: bool,
) -> Outcome:
    if not adopt and not spec.workdir_is_mounted and await engine.missing_workdir(spec):
        return missing_workdir(spec)
    stopped_by = StoppedBy.CONTAINER
    with _timed(stages, "run"):
        async with (
            engine.tail(spec, sink, replay=adopt) as tailed,
            engine.measured(spec) as measured,
        ):
            try:
                seconds = await _begin(engine, spec, adopt=adopt)
                if not await engine.wait(spec, seconds):
                    stopped_by = StoppedBy.DEADLINE
            except asyncio.CancelledError as cancellation:
                if not await _decides(must_stop):
                    raise HandedOver from cancellation
                stopped_by = StoppedBy.CANCEL
            if stopped_by is not StoppedBy.CONTAINER:
                await _to_the_end(engine.stop(spec))
    outcome = await _judged(engine, spec, stopped_by)
    return replace(
        outcome,
        usage=measured.usage,
        log_reconnects=tailed.reconnects,
        log_complete=tailed.complete,
    )


async def _begin(engine: Engine, spec: ContainerSpec, *, adopt: bool) -> float:
    """Start the container where nobody has yet; the seconds that its time limit leaves it."""
    state = await engine.inspect(spec) if adopt else None
    if state is None or state.started_at is None:
        await engine.start(spec)
        return spec.timeout_seconds
    elapsed = (datetime.now(UTC) - state.started_at).total_seconds()
    return max(0.0, spec.timeout_seconds - elapsed)


async def _judged(engine: Engine, spec: ContainerSpec, stopped_by: StoppedBy) -> Outcome:
    """The outcome of the container that has stopped, on the evidence of the engine."""
    state = await _final_state(engine, spec)
    if stopped_by is StoppedBy.CONTAINER and state.exit_code != 0 and state.started_at:
        evidence = await engine.evidence(spec, state.started_at)
        state = replace(state, oom_killed=state.oom_killed or evidence.oom)
        if evidence.signals and not state.oom_killed:
            stopped_by = StoppedBy.OUTSIDE
    return judge(spec, state, stopped_by)


async def _final_state(engine: Engine, spec: ContainerSpec) -> ContainerState:
    state = await engine.inspect(spec)
    if state.exit_code == KILLED and not state.oom_killed:
        # The engine hears of a memory kill by another way than of the exit, at times a little
        # later; which it was, only the engine may say.
        await asyncio.sleep(_OOM_NEWS_SECONDS)
        state = await engine.inspect(spec)
    return state


async def _decides(must_stop: Callable[[], Awaitable[bool]] | None) -> bool:
    return True if must_stop is None else await _to_the_end(must_stop())


async def _destroy(engine: Engine, spec: ContainerSpec) -> str | None:
    """Remove the container even while the caller is being cancelled; say what kept it."""
    try:
        await _to_the_end(engine.destroy(spec))
    except EngineError as error:
        return str(error)
    return None


async def _to_the_end(step: Awaitable[T]) -> T:
    """Wait for a step that must not be left half-done, however often the caller is cancelled."""
    running = asyncio.ensure_future(step)
    while not running.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([running])
    return running.result()


@contextlib.contextmanager
def _timed(stages: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        stages[name] = round(time.monotonic() - started, 3)
