"""Stop a container, read its outcome from inspect and events, and remove it.

For `execution`, which watched it, and for `finish`, where its process is no more.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential

from flows.attempt import Attempt
from flows.engine.contract import Engine, Sink
from flows.engine.types import ContainerState, Evidence
from flows.errors import EngineError, EngineUnavailable
from flows.exit_code import KILLED
from flows.outcome import Outcome, StoppedBy, container_outcome
from flows.spec import ContainerSpec
from flows.threads import to_the_end

T = TypeVar("T")
# Decides on an outcome by what the container left, once it has stopped; raises nothing.
Collect = Callable[[Outcome], Awaitable[Outcome]]
# How long an engine may be away while its container runs: the time of a restart.
PATIENCE_SECONDS = 60.0
_CLOCKS_APART = timedelta(seconds=5)


async def finish(
    engine: Engine,
    attempt: Attempt,
    sink: Sink,
    unfinished: Outcome,
    collect: Collect | None = None,
) -> Outcome:
    """Stop and remove the container of an attempt whose process is no more; the outcome.

    It is `unfinished`, with what the engine knows, unless the container has ended by itself.
    """
    spec = attempt.prepared.spec
    try:
        outcome = await _finished_outcome(engine, attempt, sink, unfinished)
        outcome = await with_results(outcome, collect)
    except EngineError as error:
        outcome = replace(unfinished, cleanup_error=str(error))
    return replace(outcome, cleanup_error=await destroy(engine, spec) or outcome.cleanup_error)


async def _finished_outcome(
    engine: Engine, attempt: Attempt, sink: Sink, unfinished: Outcome
) -> Outcome:
    spec, stopping = attempt.prepared.spec, attempt.stopping
    if not await engine.find(spec):
        return unfinished
    async with engine.tail(spec, sink, replay=True) as tailed:
        ran_on = (await engine.inspect(spec)).running
        if ran_on:
            await engine.stop(spec)
    if (await engine.inspect(spec)).started_at is None:
        return unfinished
    stopped_by = stopping or (StoppedBy.CANCEL if ran_on else StoppedBy.CONTAINER)
    ended = replace(
        await read_outcome(engine, spec, stopped_by),
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
) -> Outcome:
    """The outcome of a container that has stopped, by the engine's inspect and its events.

    `back_at` is when the engine came back; `watched`, that this process saw the container's whole
    life, so that the engine's record of its end cannot have been crowded out.
    """
    state = await _stopped_state(engine, spec)
    started_at = state.started_at
    if stopped_by is StoppedBy.CONTAINER and state.exit_code != 0 and started_at:
        try:
            evidence = await engine.evidence(spec, started_at)
        except EngineUnavailable:
            # One that shuts down may still answer an inspect.
            evidence = await retry_while_unavailable(
                partial(engine.evidence, since=started_at), spec
            )
            state, back_at = await retry_while_unavailable(engine.inspect, spec), datetime.now(UTC)
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


async def _stopped_state(engine: Engine, spec: ContainerSpec) -> ContainerState:
    state = await retry_while_unavailable(engine.inspect, spec)
    if state.exit_code == KILLED and not state.oom_killed:
        # The engine hears of a memory kill by another way than of the exit, at times a little
        # later; which it was, only the engine may say.
        await asyncio.sleep(0.2)
        state = await engine.inspect(spec)
    return state


async def retry_while_unavailable(
    ask: Callable[[ContainerSpec], Awaitable[T]], spec: ContainerSpec
) -> T:
    """What the engine answers, once it does; asked again while it is away, for a minute."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(EngineUnavailable),
        wait=wait_exponential(multiplier=0.1, max=2),
        stop=stop_after_delay(PATIENCE_SECONDS),
        reraise=True,
    )
    return await retrying(ask, spec)


async def destroy(engine: Engine, spec: ContainerSpec, *, patient: bool = False) -> str | None:
    """Remove the container even while the caller is being cancelled; say what kept it.

    With `patient`, an engine that is away gets the time to come back.
    """
    removal = retry_while_unavailable(engine.destroy, spec) if patient else engine.destroy(spec)
    try:
        await to_the_end(removal)
    except EngineError as error:
        return str(error)
    return None
