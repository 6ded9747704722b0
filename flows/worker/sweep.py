"""The sweep of a host: bring runs on whose process died, remove containers that nobody owns.

The server's list is the index: the runs that have begun and name this host, and those whose job the
disk has as open. Each is brought on by itself, beside the others: one that is stuck holds up none,
and goes on while the next sweeps pass it by.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, StateType

from flows.engine.selection import open_engine
from flows.runtime.context import Job
from flows.runtime.driver import drive, look
from flows.runtime.lifecycle import Step
from flows.runtime.run_states import WORKER_LABEL, host_of, read_run, worker_of
from flows.runtime.store import AttemptStore, Busy, IsRunning, open_jobs, runs_nothing
from flows.settings import HostSettings
from flows.spec import Owned, is_expired
from flows.worker.owners import Owners, is_present, owners
from flows.worker.run_notes import read_runs
from flows.workspace.logs import Logger

_BEGUN = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED)
# What Prefect's worker tells as a crash it tells twice, and what follows comes after the second.
_CRASHED_SECONDS = 20.0
_CRASHED_LATELY = timedelta(days=1)
_AT_ONCE = 20
_TOLD = {
    Step.RESTART: "its process died, and it is started again",
    Step.SET_END: "its process died before it told the end",
    Step.SET_CRASHED: "its process died too often",
    Step.END_ABANDONED: "its process died too often",
    Step.END_CANCELED: "it is over, and its container was not",
    Step.SET_CANCELLED: "its process died while it was being cancelled",
    Step.TELL: "it is over, and was not told",
    Step.REMOVE: "another host carries its run now",
    Step.SET_ASIDE: "what this host noted of it cannot be read",
    Step.PAUSE: "somebody suspended it",
    Step.SET_AGAIN: "its state replaced one that was to stand",
    Step.WAIT: "it waits for the engine",
}


@dataclass(frozen=True, slots=True)
class SweptHost:
    """What a sweep works with. With `dry_run` it only says what it would do.

    `worker` is the one that sweeps its host for its life. `ahead` is how far the clocks are ahead
    of the server's and of this host's, for tests; `driven`, the jobs that a sweep still brings on.
    """

    client: PrefectClient
    settings: HostSettings
    logger: Logger
    is_running: IsRunning = runs_nothing
    dry_run: bool = False
    worker: str = ""
    ahead: timedelta = timedelta()
    driven: dict[str, asyncio.Task[str | None]] = field(default_factory=dict)

    def now(self) -> datetime:
        """By this host's clock, for what it has dated itself."""
        return datetime.now(UTC) + self.ahead

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


async def sweep(host: SweptHost, seconds: float | None = None) -> list[str]:
    """Look after runs and the engine: the part of `reap_orphans` that somebody waits for.

    What takes longer than `seconds` goes on by itself.
    """
    told: list[str] = []
    for part in (_sweep_jobs(host, seconds), _vouch(host), _sweep_engine(host)):
        try:
            told += [sentence async for sentence in part]
        except Exception as error:  # noqa: BLE001 - one part must not keep the sweep from the other
            told.append(f"could not be swept as a whole: {error!r}")
    return host.log(told)


async def _sweep_jobs(host: SweptHost, seconds: float | None) -> AsyncIterator[str]:
    lost, at_once = await _jobs_without_owner(host), asyncio.Semaphore(_AT_ONCE)
    for job_id, run in lost.items():
        if job_id not in host.driven:
            host.driven[job_id] = asyncio.ensure_future(_driven(host, job_id, run, at_once))
    mine = list(host.driven.values())
    if not mine:
        return
    await asyncio.wait(mine, timeout=seconds)
    for job_id, driving in sorted(host.driven.items()):
        if driving.done():
            del host.driven[job_id]
            if sentence := driving.result():
                yield sentence


async def _jobs_without_owner(host: SweptHost) -> Mapping[str, FlowRun | None]:
    """The jobs to be brought on, with their run where the server has it as begun."""
    known = set(await asyncio.to_thread(open_jobs, host.settings.workdir))
    begun = {str(run.id): run for run in await read_runs(host.client, *_BEGUN)}
    pools = {run.work_pool_name for run in begun.values() if run.work_pool_name}
    names = host.settings.worker, host.worker
    found = await owners(host.client, host.settings.workdir, names, pools, host.ahead)
    lost: dict[str, FlowRun | None] = dict.fromkeys(known - begun.keys())
    lost |= {
        job_id: run
        for job_id, run in begun.items()
        if _is_elsewhere(run, host, job_id in known)
        or found.have_lost(run, is_known=job_id in known)
    }
    return lost | {str(run.id): run for run in await _crashed(host, found)}


def _is_elsewhere(run: FlowRun, host: SweptHost, is_known: bool) -> bool:
    """Whether another host has a run now of which this one has something."""
    return is_known and host_of(run) not in (None, host.settings.worker)


async def _crashed(host: SweptHost, found: Owners) -> list[FlowRun]:
    """Runs that were told as crashed lately, before anything of them was noted anywhere."""
    runs = await read_runs(host.client, StateType.CRASHED, ended_after=found.now - _CRASHED_LATELY)
    ages = ((run, found.now - run.state.timestamp) for run in runs if run.state)
    here = (None, host.settings.worker)
    return [
        run for run, age in ages if age.total_seconds() >= _CRASHED_SECONDS and host_of(run) in here
    ]


async def _driven(
    host: SweptHost, job_id: str, run: FlowRun | None, at_once: asyncio.Semaphore
) -> str | None:
    store, is_lost = host.store(job_id), run is not None
    if _is_held(store):
        return None
    async with at_once:
        try:
            if host.dry_run:
                job = host.job(store)
                steps = [(await look(job, host.client, is_lost=is_lost)).step]
            else:
                steps = await drive(host.job(store), host.client, is_lost=is_lost)
                await _note_over(host, store)
        except Exception as error:  # noqa: BLE001 - one job must not keep the sweep from the others
            return f"{job_id}: could not be swept: {error!r}"
    reasons = [_TOLD[step] for step in steps if step in _TOLD]
    return f"{job_id}: {reasons[0]}" if reasons else None


async def _note_over(host: SweptHost, store: AttemptStore) -> None:
    """Spare the next sweeps a job of which all is told."""
    run = await read_run(host.client, store.job_id)
    is_over = run is None or (run.state is not None and run.state.is_final())
    with suppress(Busy), store.held():
        if is_over and all(attempt.published for attempt in store.attempts()):
            store.note_over()


async def _vouch(host: SweptHost) -> AsyncIterator[str]:
    """Put this worker's name on runs that wait for this host, in the place of one that died: others
    take over from a host whose worker is silent."""
    if not host.worker or host.dry_run:
        return
    for run in await read_runs(host.client, StateType.SCHEDULED, has_begun=True):
        is_here = host_of(run) == host.settings.worker and worker_of(run) != host.worker
        if is_here and not is_present(host.settings.workdir, worker_of(run)):
            await host.client.update_flow_run_labels(run.id, {WORKER_LABEL: host.worker})
            yield f"{run.id}: it waits for this host, whose worker is {host.worker} now"


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
