"""."""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed
from prefect.types import DateTime

from flows.engine.docker.engine import DockerEngine
from flows.outcome import ABANDONED, CANCELED
from flows.report.names import FLOW_NAME
from flows.runtime.context import Job
from flows.runtime.recovery import let_go, may_start_again, read_run, recover, settle
from flows.runtime.store import AttemptStore, Busy, IsCarried, carries_nothing, open_jobs
from flows.settings import HostSettings
from flows.spec import Owned, is_expired
from flows.worker.cleanup import told
from flows.worker.run_notes import host_of
from flows.workspace.logs import Logger

# Between the state Running and the moment at which the run takes its lock lie the flow's imports.
_STARTING = timedelta(seconds=20)


# Between a worker's taking a run and the state Running lie the start of a process and its imports.
_TAKEN = timedelta(minutes=3)


_RECENT = timedelta(days=1)

Stores = Callable[[str], AttemptStore]


async def sweep(
    client: PrefectClient,
    host: HostSettings,
    engine: DockerEngine,
    logger: Logger,
    *,
    dry_run: bool = False,
    is_carried: IsCarried = carries_nothing,
) -> list[str]:
    """Look after runs and the engine: the part of `reap_orphans` that somebody waits for."""
    stores: Stores = partial(AttemptStore, host.workdir, is_carried=is_carried)
    done: list[str] = []
    async for sentence in _sweep_runs(client, host, stores, logger, dry_run=dry_run):
        done.append(sentence)
    async for sentence in _sweep_unbegun(client, stores, logger, dry_run=dry_run):
        done.append(sentence)
    async for sentence in _sweep_engine(client, stores, engine, dry_run=dry_run):
        done.append(sentence)
    return told(done, logger, dry_run=dry_run)


async def _sweep_runs(
    client: PrefectClient, host: HostSettings, stores: Stores, logger: Logger, *, dry_run: bool
) -> AsyncIterator[str]:
    for job_id in open_jobs(host.workdir):
        store = stores(job_id)
        if _is_held(store):
            continue
        try:
            run = await read_run(client, job_id)
            is_elsewhere = run is not None and _is_elsewhere(run, store, host)
            what = _left_behind(store) if is_elsewhere else _orphaned(run, store)
            if what is not None and not dry_run:
                if is_elsewhere:
                    await let_go(Job(store, logger))
                else:
                    await _end_or_restart(client, run, store, logger)
            elif what is None and not dry_run:
                _note_over(run, store)
        except Exception as error:  # noqa: BLE001 - one job must not keep the sweep from the others
            what = f"could not be swept: {error}"
        if what is not None:
            yield f"{job_id}: {what}"


async def _sweep_unbegun(
    client: PrefectClient, stores: Stores, logger: Logger, *, dry_run: bool
) -> AsyncIterator[str]:
    """Put runs back into their queue that died, or whose worker did, before they began."""
    types = [StateType.PENDING, StateType.CRASHED]
    recent = DateTime.instance(datetime.now(UTC) - _RECENT)
    runs = await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW_NAME])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)),
            expected_start_time=FlowRunFilterExpectedStartTime(after_=recent),
        ),
    )
    for run in runs:
        store = stores(str(run.id))
        if run.state is None or _is_held(store):
            continue
        age = datetime.now(UTC) - run.state.timestamp
        if age < (_STARTING if run.state.is_crashed() else _TAKEN):
            continue
        if run.state.is_crashed() and not await may_start_again(client, run):
            continue
        if not dry_run:
            if run.state.is_pending():
                # Told as a crash, and counted as one: what never begins is not tried for ever.
                lost: State[None] = Crashed(message="Its worker died before it began.")
                await client.set_flow_run_state(run.id, lost)
            await recover(run.id, Job(store, logger))
        yield f"{run.id}: it died before its container began"


def _note_over(run: FlowRun | None, store: AttemptStore) -> None:
    """Spare the next sweeps a job of which all is told."""
    is_over = run is None or (run.state is not None and run.state.is_final())
    with suppress(Busy), store.held():
        attempt = store.last()
        if is_over and (attempt is None or attempt.published):
            store.note_over()


def _is_elsewhere(run: FlowRun, store: AttemptStore, host: HostSettings) -> bool:
    """Whether another host took the run over from this one, and not this one its own name anew."""
    name, attempt = host_of(run), store.last()
    here = {host.worker, attempt.prepared.spec.worker} if attempt else {host.worker}
    return name is not None and name not in here


def _left_behind(store: AttemptStore) -> str | None:
    """Why a job that another host carries needs somebody here; None where it does not."""
    attempt = store.last()
    is_untold = attempt is not None and not attempt.published
    return "another host carries its run now" if is_untold else None


def _orphaned(run: FlowRun | None, store: AttemptStore) -> str | None:
    """Why a job without a process needs somebody; None where it does not."""
    attempt = store.last()
    is_untold = attempt is not None and not attempt.published
    if run is None or run.state is None:
        # Unknown to this server: deleted, or another installation's on the same host.
        is_past = attempt is not None and is_expired(
            attempt.prepared.spec.labels, datetime.now(UTC)
        )
        return "nobody knows its run any more" if is_untold and is_past else None
    if run.state.is_final():
        return "its run is over and its attempt is not" if is_untold else None
    if run.state.is_cancelling():
        return "its process died while it was being cancelled"
    just_began = datetime.now(UTC) - run.state.timestamp < _STARTING
    # One whose attempt is younger than its state had the lock, and let go of it.
    had_lock = attempt is not None and attempt.started_at > run.state.timestamp
    is_lost = run.state.is_running() and (had_lock or not just_began)
    return "its process died" if is_lost else None


async def _end_or_restart(
    client: PrefectClient, run: FlowRun | None, store: AttemptStore, logger: Logger
) -> None:
    state = run.state if run else None
    if run is None or state is None:
        await settle(Job(store, logger), ABANDONED, run)
    elif state.is_cancelled() or state.is_cancelling():
        await settle(Job(store, logger), CANCELED, run)
        canceled: State[None] = Cancelled(message=CANCELED.error)
        if state.is_cancelling():
            await client.set_flow_run_state(run.id, canceled)
    else:
        crashed: State[None] = Crashed(message="Its process died; nothing on its host runs it.")
        if not state.is_final():
            await client.set_flow_run_state(run.id, crashed)
        await recover(run.id, Job(store, logger))


async def _sweep_engine(
    client: PrefectClient, stores: Stores, engine: DockerEngine, *, dry_run: bool
) -> AsyncIterator[str]:
    now = datetime.now(UTC)
    # Containers first: a volume in use cannot be removed.
    for owned in await engine.owned():
        store = stores(owned.job_id)
        if _is_held(store):
            continue
        if not is_expired(owned.labels, now) and not await _is_over(client, owned, store):
            continue
        if dry_run or await engine.discard(owned):
            yield f"removed the {owned.kind} {owned.name} of {owned.job_id}"


async def _is_over(client: PrefectClient, owned: Owned, store: AttemptStore) -> bool:
    run = await read_run(client, owned.job_id)
    if run is None or run.state is None:
        # Perhaps another installation's that shares the engine: its death date decides.
        return False
    # A crashed run may be started again and adopt what is here.
    attempt = store.last()
    is_settled = attempt is not None and attempt.published
    return run.state.is_final() and (is_settled or not run.state.is_crashed())


def _is_held(store: AttemptStore) -> bool:
    try:
        with store.held():
            return False
    except Busy:
        return True
