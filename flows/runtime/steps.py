"""What is done to a job that no process carries, for whoever holds its lock: end, tell, let go."""

from dataclasses import replace
from datetime import UTC, datetime

from prefect.client.orchestration import PrefectClient

from flows.attempt import Attempt, Executed
from flows.outcome import ABANDONED, CANCELED, TAKEN, StoppedBy, ended_early
from flows.outputs.upload_plan import UploadJournal
from flows.report.events import send_events
from flows.runtime.attempts import finish_attempt
from flows.runtime.context import Job
from flows.runtime.publish import publish_attempt
from flows.spec import UPLOAD_CANCELED_SECONDS
from flows.workspace.logs import LogFacts


async def end_canceled(job: Job, attempt: Attempt) -> Attempt:
    """Stop and remove the container of an attempt, as canceled; stored, and not told yet."""
    unfinished = CANCELED if attempt.began else ended_early(StoppedBy.CANCEL)
    return await finish_attempt(job, attempt, unfinished)


async def cancel(job: Job, client: PrefectClient) -> None:
    """End the newest attempt of a run that somebody canceled, and tell it; raises `Busy`."""
    with job.store.held():
        await close(job, client)


async def close(job: Job, client: PrefectClient) -> None:
    """The same, for whoever holds the job's lock."""
    attempt = job.store.last()
    if attempt is not None and attempt.executed is None:
        await end_canceled(job, attempt)
    await tell(job, client)


async def end_abandoned(job: Job, attempt: Attempt) -> Attempt:
    """The same, as one whose process died too often."""
    return await finish_attempt(job, attempt, ABANDONED)


async def tell(job: Job, client: PrefectClient) -> None:
    """Tell all that ended and is not told: events, `run.json`, upload and artifacts.

    Each is told as far as the server takes it, and again by the next call where it did not.
    """
    for attempt in job.store.attempts():
        if attempt.executed is None or attempt.published:
            continue
        await send_events(client, attempt)
        await publish_attempt(job, attempt, upload_seconds=UPLOAD_CANCELED_SECONDS, again=True)


async def tell_unseen(job: Job, client: PrefectClient) -> None:
    """The same of a run that the server does not have: by events, as nothing can be shown of it."""
    for attempt in job.store.attempts():
        if attempt.executed is not None and not attempt.published:
            await send_events(client, attempt)
            attempt.prepared.workspace.move_into_place(attempt.prepared.spec.artifacts_subdir)
            job.store.close(attempt)


async def let_go(job: Job, attempt: Attempt) -> None:
    """Remove what is left here of a run that another host carries now, which tells of it."""
    spec, now = attempt.prepared.spec, datetime.now(UTC)
    async with job.open_engine(None) as engine:
        await engine.destroy(spec)
    attempt.prepared.workspace.move_into_place(spec.artifacts_subdir)
    # The other host's results are the run's.
    UploadJournal(attempt.prepared.workspace.root, spec.job_id, spec.attempt).close()
    log = LogFacts(0, 0, 0, None, "")
    executed = attempt.executed or Executed(TAKEN, log, attempt.started_at, now)
    job.store.close(replace(attempt, executed=executed, taken=True))


async def set_aside(job: Job) -> bool:
    """Set a record aside that cannot be read, and remove what the engine has of the job; whether
    it had anything."""
    async with job.open_engine(None) as engine:
        owned = [each for each in await engine.owned() if each.job_id == job.store.job_id]
        for each in owned:
            await engine.discard(each)
    job.store.set_aside()
    return any(each.kind == "container" for each in owned)
