"""Run one container: the order of its steps, its deadline, and the outcome.

Knows no Docker and no Prefect. `run` is the only caller of an engine's steps for a task; whatever
happens in between, it destroys what the spec names before it returns.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential,
)

from flows.engine_contract import Engine, Sink
from flows.errors import EngineError, EngineUnavailable, ImageError, Rejected
from flows.evidence import Evidence
from flows.interrupts import Interrupt, Interrupted, to_the_end
from flows.outcomes import (
    KILLED,
    ContainerState,
    Image,
    Outcome,
    StoppedBy,
    ended_early,
    judge,
    missing_workdir,
    outcome_of,
)
from flows.spec import ContainerSpec

T = TypeVar("T")

# How long an engine may be away while its container runs: the time of a restart.
PATIENCE_SECONDS = 60.0
_ABSENCES = 20
_OOM_NEWS_SECONDS = 0.2
# What an engine still makes after that is left to the sweep.
_HALF_DONE_SECONDS = 10.0


async def run(
    engine: Engine,
    spec: ContainerSpec,
    sink: Sink,
    *,
    adopt: bool = False,
    interrupt: Interrupt | None = None,
    before_create: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run the container of `spec` to its end and leave nothing of it behind.

    With `adopt`, the container exists already (an earlier process made it) and is taken over: its
    output comes whole, its time limit counts from its own start. `interrupt` ends it early.
    `before_create` is called when the image is there, right before the container comes to be.

    Returns an outcome for everything a task or an engine can do. A caller that is cancelled
    leaves the container as it is, for whoever adopts or finishes it.
    """
    stages: dict[str, float] = {}
    image: Image | None = None
    interrupt = interrupt or Interrupt()
    try:
        if not adopt:
            with _timed(stages, "pull"):
                image = await interrupt.unless_requested(_pull(engine, spec))
            before_create()
            with _timed(stages, "create"):
                await _whole(engine.create(spec, image), interrupt)
        outcome = await _watch(engine, spec, sink, stages, interrupt, adopt=adopt)
    except (EngineError, Rejected) as error:
        outcome = outcome_of(error)
    except Interrupted as interrupted:
        outcome = ended_early(interrupted.why)
    except Exception:
        await _destroy(engine, spec)
        raise
    cleanup_error = await _destroy(engine, spec)
    return replace(outcome, image=image, cleanup_error=cleanup_error, stages=stages)


async def finish(engine: Engine, spec: ContainerSpec, sink: Sink, unfinished: Outcome) -> Outcome:
    """End the attempt of a process that is no more, and leave nothing of it behind.

    A container that has ended by itself tells the truth about it; for one that still runs, or is
    gone, the outcome is `unfinished`, with what the engine knows of its end.
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
        timed_out=unfinished.timed_out,
    )


async def _pull(engine: Engine, spec: ContainerSpec) -> Image:
    try:
        async with asyncio.timeout(spec.pull_timeout_seconds):
            return await engine.pull(spec)
    except TimeoutError:
        raise ImageError(
            f"pulling the image {spec.image} took longer than its limit of "
            f"{spec.pull_timeout_seconds} s: see whether its registry answers, or raise "
            "task.container.pullTimeoutSeconds"
        ) from None


async def _watch(
    engine: Engine,
    spec: ContainerSpec,
    sink: Sink,
    stages: dict[str, float],
    interrupt: Interrupt,
    *,
    adopt: bool,
) -> Outcome:
    if not adopt and not spec.workdir_is_mounted and await engine.missing_workdir(spec):
        return missing_workdir(spec)
    was_away = False
    with _timed(stages, "run"):
        async with (
            engine.tail(spec, sink, replay=adopt) as tailed,
            engine.measured(spec) as measured,
        ):
            try:
                seconds = await interrupt.unless_requested(_begin(engine, spec, adopt=adopt))
                stopped, was_away = await interrupt.unless_requested(_wait(engine, spec, seconds))
                stopped_by = StoppedBy.CONTAINER if stopped else StoppedBy.DEADLINE
            except Interrupted as interrupted:
                stopped_by = interrupted.why
            if stopped_by is not StoppedBy.CONTAINER:
                await to_the_end(engine.stop(spec))
                if (await engine.inspect(spec)).started_at is None:
                    raise Interrupted(stopped_by)
    outcome = await _judged(engine, spec, stopped_by, was_away=was_away)
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


async def _wait(engine: Engine, spec: ContainerSpec, seconds: float) -> tuple[bool, bool]:
    """Whether the container stopped within `seconds`, and whether its engine was away meanwhile.

    An engine that comes back is asked again; how its containers fared it then knows itself.
    """
    deadline = time.monotonic() + seconds
    for absences in range(_ABSENCES):
        try:
            return await engine.wait(spec, max(0.0, deadline - time.monotonic())), absences > 0
        except EngineUnavailable:
            await _patiently(engine.inspect, spec)
    raise EngineUnavailable(f"Docker broke off {_ABSENCES} times while waiting for the container")


async def _judged(
    engine: Engine, spec: ContainerSpec, stopped_by: StoppedBy, *, was_away: bool = False
) -> Outcome:
    """The outcome of the container that has stopped, on the evidence of the engine."""
    state = await _final_state(engine, spec)
    started_at = state.started_at
    if stopped_by is StoppedBy.CONTAINER and state.exit_code != 0 and started_at:
        try:
            evidence = await engine.evidence(spec, started_at)
        except EngineUnavailable:
            state, was_away = await _patiently(engine.inspect, spec), True
            evidence = await engine.evidence(spec, started_at)
        state = replace(state, oom_killed=state.oom_killed or evidence.oom)
        if not state.oom_killed:
            stopped_by = _killer(state, evidence, was_away=was_away)
    return judge(spec, state, stopped_by)


def _killer(state: ContainerState, evidence: Evidence, *, was_away: bool) -> StoppedBy:
    # An engine that restarted remembers no end.
    if (evidence.signals or state.signal) and (was_away or evidence.exit_code is None):
        return StoppedBy.ENGINE
    return StoppedBy.OUTSIDE if evidence.signals else StoppedBy.CONTAINER


async def _final_state(engine: Engine, spec: ContainerSpec) -> ContainerState:
    state = await _patiently(engine.inspect, spec)
    if state.exit_code == KILLED and not state.oom_killed:
        # The engine hears of a memory kill by another way than of the exit, at times a little
        # later; which it was, only the engine may say.
        await asyncio.sleep(_OOM_NEWS_SECONDS)
        state = await engine.inspect(spec)
    return state


async def _patiently(
    ask: Callable[[ContainerSpec], Awaitable[ContainerState]], spec: ContainerSpec
) -> ContainerState:
    """What the engine answers, once it does."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(EngineUnavailable),
        wait=wait_exponential(multiplier=0.1, max=2),
        stop=stop_after_delay(PATIENCE_SECONDS),
        reraise=True,
    )
    return await retrying(ask, spec)


async def _destroy(engine: Engine, spec: ContainerSpec) -> str | None:
    """Remove the container even while the caller is being cancelled; say what kept it."""
    try:
        await to_the_end(engine.destroy(spec))
    except EngineError as error:
        return str(error)
    return None


async def _whole(step: Coroutine[Any, Any, T], interrupt: Interrupt) -> T:
    """Wait for a step that must not be left half-done, for a moment also when told to end."""
    running = asyncio.ensure_future(step)
    try:
        return await interrupt.unless_requested(_shielded(running))
    except (Interrupted, asyncio.CancelledError):
        await asyncio.wait([running], timeout=_HALF_DONE_SECONDS)
        raise


async def _shielded(running: asyncio.Future[T]) -> T:
    return await asyncio.shield(running)


@contextlib.contextmanager
def _timed(stages: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        stages[name] = round(time.monotonic() - started, 3)
