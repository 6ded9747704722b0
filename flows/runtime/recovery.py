"""Prefect's state hooks, and how they and the sweep restart a run whose process is gone, or end it.

Prefect calls task hooks and the hooks of a run that ends by itself in the run's own process, the
others (a cancellation, a crash that the worker saw) in the worker's, or in a new one. They find
what they need in the attempt store. Whoever comes second finds the job's lock taken or its attempt
published, and does nothing.
"""

import asyncio
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.logging.loggers import flow_run_logger
from prefect.states import Scheduled

from flows.attempt import Executed
from flows.errors import PayloadError
from flows.outcome import ABANDONED, TAKEN, Outcome
from flows.outputs.upload_plan import UploadJournal
from flows.payload.container import Retry
from flows.payload.parse import parse, secrets_of
from flows.report.events import FINISHED, STARTED, emit_finished, emit_finished_of, emit_started
from flows.runtime.attempts import finish_attempt
from flows.runtime.context import Job, injected
from flows.runtime.driver import drive, look
from flows.runtime.lifecycle import Step
from flows.runtime.publish import publish_attempt
from flows.runtime.store import AttemptStore, Busy
from flows.settings import HostSettings
from flows.spec import UPLOAD_CANCELED_SECONDS
from flows.workspace.logs import LogFacts


def tell_started(task: object, task_run: TaskRun, state: object) -> None:
    """`on_running` of the execute task: emit `container.started`."""
    if attempt := _store(task_run.flow_run_id).last():
        emit_started(attempt)


def tell_finished(task: object, task_run: TaskRun, state: object) -> None:
    """`on_completion` and `on_failure` of the execute task: emit `container.finished`."""
    if (attempt := _store(task_run.flow_run_id).last()) is not None:
        emit_finished(attempt)


def on_ended(flow: object, flow_run: FlowRun, state: object) -> None:
    """`on_completion` and `on_failure` of the flow: emit again, with the same event ids."""
    for attempt in _store(flow_run.id).attempts():
        emit_finished(attempt)


async def on_cancelled(flow: object, flow_run: FlowRun, state: object) -> None:
    """`on_cancellation`: end the attempt of a process that may have been killed before it did."""
    async with get_client() as client:
        await drive(_job(flow, flow_run), client)


async def on_crashed(flow: object, flow_run: FlowRun, state: object) -> None:
    """`on_crashed`: restart a run whose process died or was told to stop, or end it."""
    job = _job(flow, flow_run)
    async with get_client() as client:
        if (await look(job, client)).step is Step.RESTART:
            recover_soon(flow_run.id)
        else:
            await drive(job, client)


def _job(flow: object, flow_run: FlowRun) -> Job:
    return Job(_store(flow_run.id), flow_run_logger(flow_run), injected(flow).open_engine)


def _store(flow_run_id: object) -> AttemptStore:
    return AttemptStore(HostSettings().workdir, str(flow_run_id))


async def settle(job: Job, unfinished: Outcome, flow_run: FlowRun | None) -> None:
    """Finish the newest attempt, emit its events and publish it, as far as that is not done yet.

    `unfinished` is the outcome of one that still ran.
    """
    secrets = secrets_of(flow_run.parameters.get("payload")) if flow_run else None
    job = replace(job, secrets=secrets)
    try:
        with job.store.held():
            attempt = job.store.last()
            if attempt is None:
                return
            if attempt.executed is None:
                attempt = await finish_attempt(job, attempt, unfinished)
            emit_started(attempt)
            emit_finished(attempt)
            if not attempt.published:
                await publish_attempt(job, attempt, upload_seconds=UPLOAD_CANCELED_SECONDS)
    except Busy:
        job.logger.info("Another process still works on this job; it will end it")


async def let_go(job: Job) -> None:
    """Remove what is left here of a run that another host carries now, which tells of it."""
    try:
        with job.store.held():
            attempt = job.store.last()
            if attempt is None:
                return
            spec, now = attempt.prepared.spec, datetime.now(UTC)
            async with job.open_engine(None) as engine:
                await engine.destroy(spec)
            attempt.prepared.workspace.move_into_place(spec.artifacts_subdir)
            # The other host's results are the run's.
            UploadJournal(attempt.prepared.workspace.root, spec.job_id, spec.attempt).close()
            log = LogFacts(0, 0, 0, None, "")
            executed = attempt.executed or Executed(TAKEN, log, attempt.started_at, now)
            job.store.close(replace(attempt, executed=executed))
    except Busy:
        return


async def recover(flow_run_id: UUID, job: Job) -> None:
    """Start a crashed run again, or settle it after `task.container.retry.infrastructure` times."""
    try:
        # Under the lock, so that of two that see the same crash the second sees it dealt with.
        with job.store.held():
            async with get_client() as client:
                flow_run = await client.read_flow_run(flow_run_id)
                if await may_start_again(client, flow_run):
                    await start_again(client, flow_run)
                    return
    except Busy:
        return
    if flow_run.state is not None and flow_run.state.is_final():
        await settle(job, ABANDONED, flow_run)


async def attempts_elsewhere(
    client: PrefectClient, run_id: UUID, known: Collection[int] = ()
) -> int:
    """The number of the last attempt of a run, by the events of all hosts; 0 where there is none.

    Emits the `finished` events that are missing but those of the `known` ones.
    """
    of_the_run = EventFilter(
        event=EventNameFilter(name=[STARTED, FINISHED]),
        resource=EventResourceFilter(id=[f"moonmind.task.{run_id}"]),
    )
    page = await client.read_events(filter=of_the_run, limit=50)
    ended = {each.payload["attempt"] for each in page.events if each.event == FINISHED}
    ended |= set(known)
    for each in page.events:
        if each.event == STARTED and each.payload["attempt"] not in ended:
            seconds = (datetime.now(UTC) - each.occurred).total_seconds()
            emit_finished_of(str(run_id), each.payload, round(seconds, 3))
    return max((int(each.payload["attempt"]) for each in page.events), default=0)


def recover_soon(flow_run_id: UUID) -> None:
    """Start a process of its own (setsid) that calls `drive` in some seconds.

    A worker reports a crash twice, the second time after the hooks: a run that is back in its queue
    by then would be marked as crashed again. Should the process die, the sweep recovers the run.
    """
    subprocess.Popen(
        [sys.executable, "-m", "flows.runtime.recovery", str(flow_run_id)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


async def may_start_again(client: PrefectClient, flow_run: FlowRun) -> bool:
    """Whether a crashed run has starts left."""
    if flow_run.state is None or not flow_run.state.is_crashed() or not flow_run.deployment_id:
        return False
    # Not `run_count`, which leaves out the starts that died before the run began.
    states = await client.read_flow_run_states(flow_run.id)
    types = [state.type for state in sorted(states, key=lambda state: state.timestamp)]
    # A worker may report one crash twice.
    return sum(kind is StateType.CRASHED for kind, _ in groupby(types)) <= _restarts(flow_run)


async def start_again(client: PrefectClient, flow_run: FlowRun) -> None:
    """Put a run back into its queue, under the same id."""
    state: State[None] = Scheduled(
        scheduled_time=datetime.now(UTC),
        name="AwaitingRetry",
        message="Its process died; another takes over.",
    )
    await client.set_flow_run_state(flow_run.id, state)


def _restarts(flow_run: FlowRun) -> int:
    try:
        return parse(flow_run.parameters.get("payload")).task.container.retry.infrastructure
    except PayloadError:
        return Retry().infrastructure


async def _recover_later(flow_run_id: UUID) -> None:
    await asyncio.sleep(5.0)
    async with get_client() as client:
        logger = flow_run_logger(await client.read_flow_run(flow_run_id))
        await drive(Job(_store(flow_run_id), logger), client)


if __name__ == "__main__":
    asyncio.run(_recover_later(UUID(sys.argv[1])))
