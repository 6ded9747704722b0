"""End the attempt of a process that is no more: what of `execution` is left to do then.

Knows no Docker and no Prefect, and leaves nothing of the attempt on its engine either.
"""

from dataclasses import replace

from flows.engine.contract import Engine, Sink
from flows.errors import EngineError
from flows.outcome import Outcome, StoppedBy
from flows.runtime.execution import Verdict, destroy, judged, with_verdict
from flows.spec import ContainerSpec


async def finish(
    engine: Engine,
    spec: ContainerSpec,
    sink: Sink,
    unfinished: Outcome,
    stopping: StoppedBy | None = None,
    verdict: Verdict | None = None,
) -> Outcome:
    """End the attempt of a process that is no more, and leave nothing of it behind.

    A container that has ended by itself tells the truth about it; for one that still runs, or is
    gone, the outcome is `unfinished`, with what the engine knows of its end. `stopping` is why
    the earlier process was about to stop it, if it was.
    """
    try:
        outcome = await _finish(engine, spec, sink, unfinished, stopping)
        outcome = await with_verdict(outcome, verdict)
    except EngineError as error:
        outcome = replace(unfinished, cleanup_error=str(error))
    return replace(outcome, cleanup_error=await destroy(engine, spec) or outcome.cleanup_error)


async def _finish(
    engine: Engine,
    spec: ContainerSpec,
    sink: Sink,
    unfinished: Outcome,
    stopping: StoppedBy | None,
) -> Outcome:
    if not await engine.find(spec):
        return unfinished
    async with engine.tail(spec, sink, replay=True) as tailed:
        ran_on = (await engine.inspect(spec)).running
        if ran_on:
            await engine.stop(spec)
    if (await engine.inspect(spec)).started_at is None:
        return unfinished
    ended = replace(
        await judged(
            engine, spec, stopping or (StoppedBy.CANCEL if ran_on else StoppedBy.CONTAINER)
        ),
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
