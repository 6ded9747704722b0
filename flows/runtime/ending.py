"""Stop a container, read its outcome from inspect and events, and remove it.

For `execution`, which watched it, and for `finish`, where its process is no more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from flows.attempt import Attempt
from flows.engine.contract import Engine, Sink
from flows.engine.types import ContainerState, Evidence
from flows.errors import EngineError, EngineSilent, EngineUnavailable
from flows.exit_code import KILLED
from flows.outcome import (
    Outcome,
    OutcomeName,
    StoppedBy,
    container_outcome,
    ended_early,
)
from flows.runtime import engine_wait
from flows.runtime.engine_wait import EngineWait, Told, clock
from flows.spec import ContainerSpec, seconds_to_live
from flows.threads import to_the_end

# Decides on an outcome by what the container left, once it has stopped; raises nothing.
Collect = Callable[[Outcome], Awaitable[Outcome]]
# Notes for whom a container is about to be stopped; raises nothing.
NoteStopping = Callable[[StoppedBy], None]
_CLOCKS_APART = timedelta(seconds=5)


async def finish(
    engine: Engine,
    attempt: Attempt,
    sink: Sink,
    unfinished: Outcome,
    collect: Collect | None = None,
    wait: EngineWait | None = None,
    note: NoteStopping | None = None,
) -> Outcome:
    """Stop and remove the container of an attempt whose process is no more; the outcome.

    It is `unfinished`, with what the engine knows, unless the container has ended by itself. Raises
    `EngineSilent` where that is out of reach when `wait` is over, before the death date. `note` is
    called right before one that runs is stopped for a cancellation.
    """
    spec, wait = attempt.prepared.spec, wait or EngineWait(0.0)
    try:
        outcome = await _finished_outcome(engine, attempt, sink, unfinished, wait, note)
        outcome = await with_results(outcome, collect)
    except EngineSilent as error:
        if seconds_to_live(spec, datetime.now(UTC)):
            raise
        return replace(unfinished, cleanup_error=str(error), unreached=True)
    except EngineError as error:
        outcome = replace(unfinished, cleanup_error=str(error))
    left = await destroy(engine, spec, wait)
    return replace(outcome, cleanup_error=left or outcome.cleanup_error)


async def _finished_outcome(
    engine: Engine,
    attempt: Attempt,
    sink: Sink,
    unfinished: Outcome,
    wait: EngineWait,
    note: NoteStopping | None,
) -> Outcome:
    spec, stopping = attempt.prepared.spec, attempt.stopping
    canceled = unfinished.name is OutcomeName.CANCELED
    if not await wait.ask(partial(engine.find, spec)):
        return unfinished
    async with AsyncExitStack() as stack:
        tail = partial(engine.tail, spec, sink, replay=True)
        tailed = await wait.ask(lambda: stack.enter_async_context(tail()))
        ran_on = (await wait.ask(partial(engine.inspect, spec))).running
        if ran_on:
            if canceled and stopping is None:
                stopping = StoppedBy.CANCEL
                if note is not None:
                    note(stopping)
            await wait.stop(engine, spec)
    if (await wait.ask(partial(engine.inspect, spec))).started_at is None:
        return ended_early(StoppedBy.CANCEL) if canceled else unfinished
    stopped_by = stopping or (StoppedBy.CANCEL if ran_on else StoppedBy.CONTAINER)
    ended = replace(
        await read_outcome(engine, spec, stopped_by, wait=wait),
        log_reconnects=tailed.reconnects,
        log_complete=tailed.complete,
    )
    if not ran_on or stopping:
        return ended
    return replace(
        ended,
        name=unfinished.name,
        failure_class=unfinished.failure_class,
        error=unfinished.error,
        stopped_by=unfinished.stopped_by,
        timed_out=unfinished.timed_out,
    )


async def with_results(outcome: Outcome, collect: Collect | None) -> Outcome:
    """The outcome by what the container left, where it ran and somebody collects that."""
    # One that never started left nothing; of one that is gone, nobody knows that it has stopped.
    return await collect(outcome) if collect and outcome.started_at else outcome


async def read_outcome(
    engine: Engine,
    spec: ContainerSpec,
    stopped_by: StoppedBy,
    back_at: datetime | None = None,
    *,
    watched: bool = False,
    wait: EngineWait,
) -> Outcome:
    """The outcome of a container that has stopped, by the engine's inspect and its events.

    `back_at` is when the engine came back, by its own clock; `watched`, that this process saw the
    container's whole life, so that the engine's record of its end cannot have been crowded out.
    """
    state = await _stopped_state(engine, spec, wait)
    started_at = state.started_at
    if stopped_by is StoppedBy.CONTAINER and state.exit_code != 0 and started_at:
        try:
            evidence = await engine.evidence(spec, started_at)
        except EngineUnavailable:
            # One that shuts down may still answer an inspect.
            evidence = await wait.ask(partial(engine.evidence, spec, started_at))
            state = await wait.ask(partial(engine.inspect, spec))
            back_at = await wait.ask(partial(clock, engine))
        state = replace(state, oom_killed=state.oom_killed or evidence.oom)
        if not state.oom_killed:
            fell = (watched and evidence.exit_code is None) or _fell_with_engine(state, back_at)
            stopped_by = _sender_of_signal(state, evidence, engine_fell=fell)
    return container_outcome(spec, state, stopped_by)


def _fell_with_engine(state: ContainerState, back_at: datetime | None) -> bool:
    ended_at = state.finished_at
    return bool(back_at and ended_at and ended_at <= back_at + _CLOCKS_APART)


def _sender_of_signal(state: ContainerState, evidence: Evidence, *, engine_fell: bool) -> StoppedBy:
    if engine_fell and (evidence.signals or state.signal):
        return StoppedBy.ENGINE
    return StoppedBy.OUTSIDE if evidence.signals else StoppedBy.CONTAINER


async def _stopped_state(engine: Engine, spec: ContainerSpec, wait: EngineWait) -> ContainerState:
    state = await wait.ask(partial(engine.inspect, spec))
    if state.exit_code == KILLED and not state.oom_killed:
        # The engine hears of a memory kill by another way than of the exit, at times a little
        # later; which it was, only the engine may say.
        await asyncio.sleep(0.2)
        state = await wait.ask(partial(engine.inspect, spec))
    return state


async def require_gone(engine: Engine, attempts: Iterable[Attempt], told: Told) -> None:
    """Remove what is left of earlier attempts' containers, before the next one is made.

    Raises `EngineError` where one may still run, of an engine that is out of reach when the death
    date of that is past.
    """
    for attempt in filter(_may_be_left, attempts):
        spec = attempt.prepared.spec
        wait = EngineWait.of(spec, told)
        try:
            await wait.ask(partial(engine.destroy, spec))
        except EngineSilent:
            raise
        except EngineError:
            # One that has ended disturbs nobody, and is the sweep's to remove.
            exists = await wait.ask(partial(engine.find, spec))
            if exists and (await wait.ask(partial(engine.inspect, spec))).running:
                raise


def _may_be_left(attempt: Attempt) -> bool:
    executed = attempt.executed
    if executed is None:
        return attempt.began
    return executed.outcome.unreached or executed.outcome.cleanup_error is not None


async def destroy(engine: Engine, spec: ContainerSpec, wait: EngineWait) -> str | None:
    """Remove the container even while the caller is being cancelled; say what kept it.

    An engine that is away gets a minute to come back; what is left then is the sweep's.
    """
    try:
        minute = wait.at_most(engine_wait.PATIENCE_SECONDS)
        await to_the_end(minute.ask(partial(engine.destroy, spec)))
    except EngineError as error:
        return str(error)
    return None
