"""`docker pause` for the container of a suspended run, until a process goes on with it.

A run that is resumed is adopted as any other whose process is no more; the time for which its
container was paused is none of its `timeoutSeconds`.
"""

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from flows.attempt import Attempt, Executed
from flows.engine.contract import Engine
from flows.errors import ContainerGone, EngineRefused
from flows.outcome import SUSPENDED
from flows.runtime.context import Job
from flows.runtime.engine_wait import CANCEL_SECONDS, EngineWait
from flows.runtime.store import AttemptStore
from flows.workspace.logs import LogFacts


async def pause(job: Job, attempt: Attempt) -> None:
    """Pause the attempt's container where it runs; for whoever holds the job's lock.

    Raises `EngineUnavailable` where the engine stays out of reach: whether it can is not known.
    """
    if not attempt.began or attempt.executed is not None:
        return
    spec = attempt.prepared.spec
    wait = EngineWait.of(spec).at_most(CANCEL_SECONDS)
    async with job.open_engine(None) as engine:
        try:
            if not (await wait.ask(partial(engine.inspect, spec))).running:
                return
            note_begin(job.store, attempt)
            await wait.ask(partial(engine.pause, spec))
        except ContainerGone:
            # The next process finds that as well, and says so.
            return
        except EngineRefused as error:
            await _begin_anew(job, engine, attempt, error)
            return
    job.logger.info("Paused %s until the run is resumed", spec.name)


async def _begin_anew(job: Job, engine: Engine, attempt: Attempt, error: EngineRefused) -> None:
    """End an attempt whose container cannot be paused, such that another follows."""
    spec = attempt.prepared.spec
    job.logger.warning(
        "%s was stopped, and its task begins anew when the run is resumed: this engine cannot "
        "pause containers (%s)",
        spec.name,
        error,
    )
    await engine.stop(spec)
    await engine.destroy(spec)
    attempt.prepared.workspace.move_into_place(spec.artifacts_subdir)
    log = LogFacts(0, 0, 0, None, "")
    executed = Executed(SUSPENDED, log, attempt.started_at, datetime.now(UTC))
    job.store.put(replace(attempt, paused_at=None, executed=executed, taken=True))


def note_begin(store: AttemptStore, attempt: Attempt) -> None:
    """Note that a pause begins, before the container stands still."""
    if attempt.paused_at is None:
        store.put(replace(attempt, paused_at=datetime.now(UTC)))


def note_end(store: AttemptStore, attempt: Attempt) -> Attempt:
    """Note that a pause ends, before the container goes on."""
    if attempt.paused_at is not None:
        attempt = gone_on(attempt, datetime.now(UTC))
        store.put(attempt)
    return attempt


def gone_on(attempt: Attempt, now: datetime) -> Attempt:
    """The attempt after a pause that ends now; itself where it was not paused."""
    if attempt.paused_at is None:
        return attempt
    seconds = max(0.0, (now - attempt.paused_at).total_seconds())
    paused_seconds = round(attempt.paused_seconds + seconds, 3)
    return replace(attempt, paused_at=None, paused_seconds=paused_seconds)
