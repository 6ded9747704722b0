"""Prefect's state hooks, and how they and the sweep restart a run whose process is gone, or end it.

Prefect calls task hooks and the hooks of a run that ends by itself in the run's own process, the
others (a cancellation, a crash that the worker saw) in the worker's, or in a new one. They find
what they need in the attempt store. Whoever comes second finds the job's lock taken or its attempt
published, and does nothing.
"""

import asyncio
import subprocess
import sys
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.logging.loggers import flow_run_logger

from flows.report.events import emit_finished, emit_started
from flows.runtime.context import Job, injected
from flows.runtime.driver import drive, look
from flows.runtime.lifecycle import Step
from flows.runtime.store import AttemptStore
from flows.settings import HostSettings


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


async def _recover_later(flow_run_id: UUID) -> None:
    await asyncio.sleep(5.0)
    async with get_client() as client:
        logger = flow_run_logger(await client.read_flow_run(flow_run_id))
        await drive(Job(_store(flow_run_id), logger), client)


if __name__ == "__main__":
    asyncio.run(_recover_later(UUID(sys.argv[1])))
