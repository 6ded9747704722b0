"""The sweep of a host: restart or end runs whose process died, remove containers nobody owns."""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed

from flows.attempt import Attempt
from flows.engine.selection import open_engine
from flows.outcome import ABANDONED, CANCELED
from flows.runtime.context import Job
from flows.runtime.recovery import let_go, may_start_again, recover, settle
from flows.runtime.run_states import host_of, read_run
from flows.runtime.store import AttemptStore, Busy, IsRunning, open_jobs, runs_nothing
from flows.settings import HostSettings
from flows.spec import Owned, is_expired
from flows.worker.run_notes import read_runs
from flows.workspace.logs import Logger

# Between the state Running and the moment at which the run takes its lock lie the flow's imports.
_STARTING = timedelta(seconds=20)
# Between a worker's claim of a run and the state Running lie a process's start and its imports.
_CLAIMED = timedelta(minutes=3)


@dataclass(frozen=True, slots=True)
class SweptHost:
    """What a sweep works with. With `dry_run` it only says what it would do."""

    client: PrefectClient
    settings: HostSettings
    logger: Logger
    is_running: IsRunning = runs_nothing
    dry_run: bool = False
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def store(self, job_id: str) -> AttemptStore:
        """What is known of a job; its lock counts as held while this process runs the job."""
        return AttemptStore(self.settings.workdir, job_id, self.is_running)

    def job(self, store: AttemptStore) -> Job:
        """For those that end or restart it."""
        return Job(store, self.logger, host=self.settings)

    def log(self, done: list[str]) -> list[str]:
        """Say in the log what was done, or would be; returns it."""
        for sentence in done:
            self.logger.info(f"Would: {sentence}" if self.dry_run else sentence)
        return done


async def sweep(host: SweptHost) -> list[str]:
    """Look after runs and the engine: the part of `reap_orphans` that somebody waits for."""
    parts = (_sweep_jobs, _sweep_unbegun, _sweep_engine)
    return host.log([sentence for part in parts async for sentence in part(host)])


async def _sweep_jobs(host: SweptHost) -> AsyncIterator[str]:
    for job_id in open_jobs(host.settings.workdir):
        store = host.store(job_id)
        if _is_held(store):
            continue
        try:
            reason = await _sweep_job(host, store)
        except Exception as error:  # noqa: BLE001 - one job must not keep the sweep from the others
            reason = f"could not be swept: {error}"
        if reason is not None:
            yield f"{job_id}: {reason}"


async def _sweep_job(host: SweptHost, store: AttemptStore) -> str | None:
    """End or restart a job without a process; why, or None where nothing is to be done."""
    run, attempt = await read_run(host.client, store.job_id), store.last()
    is_elsewhere = run is not None and _is_elsewhere(run, attempt, host.settings.worker)
    if is_elsewhere:
        reason = "another host carries its run now" if _is_unpublished(attempt) else None
    else:
        reason = _orphaned(run, attempt, host.now())
    if host.dry_run:
        return reason
    if reason is None:
        _note_over(run, store)
    elif is_elsewhere:
        await let_go(host.job(store))
    else:
        await _end_or_restart(host, run, store)
    return reason


def _is_elsewhere(run: FlowRun, attempt: Attempt | None, worker: str) -> bool:
    """Whether another host took the run over from this one, and not this one its own name anew."""
    name = host_of(run)
    here = {worker, attempt.prepared.spec.worker} if attempt else {worker}
    return name is not None and name not in here


def _is_unpublished(attempt: Attempt | None) -> bool:
    return attempt is not None and not attempt.published


def _orphaned(run: FlowRun | None, attempt: Attempt | None, now: datetime) -> str | None:
    """Why a job without a process needs somebody; None where it does not."""
    if run is None or run.state is None:
        # Unknown to this server: deleted, or another installation's on the same host.
        is_past = attempt is not None and is_expired(attempt.prepared.spec.labels, now)
        is_lost = is_past and _is_unpublished(attempt)
        return "nobody knows its run any more" if is_lost else None
    if run.state.is_final():
        return "its run is over and its attempt is not" if _is_unpublished(attempt) else None
    if run.state.is_cancelling():
        return "its process died while it was being cancelled"
    just_began = now - run.state.timestamp < _STARTING
    # One whose attempt is younger than its state had the lock, and let go of it.
    had_lock = attempt is not None and attempt.started_at > run.state.timestamp
    is_lost = run.state.is_running() and (had_lock or not just_began)
    return "its process died" if is_lost else None


def _note_over(run: FlowRun | None, store: AttemptStore) -> None:
    """Spare the next sweeps a job of which all is told."""
    is_over = run is None or (run.state is not None and run.state.is_final())
    with suppress(Busy), store.held():
        if is_over and not _is_unpublished(store.last()):
            store.note_over()


async def _end_or_restart(host: SweptHost, run: FlowRun | None, store: AttemptStore) -> None:
    job, state = host.job(store), run.state if run else None
    if run is None or state is None:
        await settle(job, ABANDONED, run)
    elif state.is_cancelled() or state.is_cancelling():
        await settle(job, CANCELED, run)
        canceled: State[None] = Cancelled(message=CANCELED.error)
        if state.is_cancelling():
            await host.client.set_flow_run_state(run.id, canceled)
    else:
        crashed: State[None] = Crashed(message="Its process died; nothing on its host runs it.")
        if not state.is_final():
            await host.client.set_flow_run_state(run.id, crashed)
        await recover(run.id, job)


async def _sweep_unbegun(host: SweptHost) -> AsyncIterator[str]:
    recent = host.now() - timedelta(days=1)
    died = (StateType.PENDING, StateType.CRASHED)
    for run in await read_runs(host.client, *died, due_after=recent):
        store = host.store(str(run.id))
        if run.state is None or _is_held(store) or not await _died_unbegun(host, run, run.state):
            continue
        if not host.dry_run:
            if run.state.is_pending():
                # Told as a crash, and counted as one: what never begins is not tried for ever.
                lost: State[None] = Crashed(message="Its worker died before it began.")
                await host.client.set_flow_run_state(run.id, lost)
            await recover(run.id, host.job(store))
        yield f"{run.id}: it died before its container began"


async def _died_unbegun(host: SweptHost, run: FlowRun, state: State) -> bool:
    age = host.now() - state.timestamp
    if state.is_crashed():
        return age >= _STARTING and await may_start_again(host.client, run)
    return age >= _CLAIMED


async def _sweep_engine(host: SweptHost) -> AsyncIterator[str]:
    async with open_engine() as engine:
        # Containers first: a volume in use cannot be removed.
        for owned in await engine.owned():
            what = f"the {owned.kind} {owned.name} of {owned.job_id}"
            try:
                if await _is_garbage(host, owned) and (host.dry_run or await engine.discard(owned)):
                    yield f"removed {what}"
            except Exception as error:  # noqa: BLE001 - nor must one object keep it from the others
                yield f"could not remove {what}: {error}"


async def _is_garbage(host: SweptHost, owned: Owned) -> bool:
    store = host.store(owned.job_id)
    if _is_held(store):
        return False
    return is_expired(owned.labels, host.now()) or await _run_is_over(host, owned, store)


async def _run_is_over(host: SweptHost, owned: Owned, store: AttemptStore) -> bool:
    run = await read_run(host.client, owned.job_id)
    if run is None or run.state is None:
        # Perhaps another installation's that shares the engine: its death date decides.
        return False
    # A crashed run may be started again and adopt what is here.
    is_settled = (attempt := store.last()) is not None and attempt.published
    return run.state.is_final() and (is_settled or not run.state.is_crashed())


def _is_held(store: AttemptStore) -> bool:
    try:
        with store.held():
            return False
    except Busy:
        return True
