"""Prefect's state hooks: they emit the events, and end or restart runs whose process is gone.

Prefect calls task hooks and the hooks of a run that ends by itself in the run's own process, the
others (a cancellation, a crash that the worker saw) in the worker's, or in a new one. They find
what they need in the attempt store.
"""

from prefect import get_client
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.logging.loggers import flow_run_logger

from flows.outcome import ABANDONED, CANCELED
from flows.report.events import emit_finished, emit_started
from flows.runtime.context import Job, injected
from flows.runtime.recovery import may_start_again, recover_soon, settle
from flows.runtime.store import AttemptStore
from flows.settings import HostSettings


def tell_started(task: object, task_run: TaskRun, state: object) -> None:
    """`on_running` of the execute task: emit `container.started`."""
    if (attempt := _store(task_run.flow_run_id).last()) is not None:
        emit_started(attempt)


def tell_finished(task: object, task_run: TaskRun, state: object) -> None:
    """`on_completion` and `on_failure` of the execute task: emit `container.finished`."""
    if (attempt := _store(task_run.flow_run_id).last()) is not None:
        emit_finished(attempt)


def on_ended(flow: object, flow_run: FlowRun, state: object) -> None:
    """`on_completion` and `on_failure` of the flow: emit again, with the same event ids, what
    a hook before this may have failed to emit."""
    for attempt in _store(flow_run.id).attempts():
        emit_finished(attempt)


async def on_cancelled(flow: object, flow_run: FlowRun, state: object) -> None:
    """`on_cancellation`: end the attempt of a process that may have been killed before it did."""
    await settle(_job(flow, flow_run), CANCELED, flow_run)


async def on_crashed(flow: object, flow_run: FlowRun, state: object) -> None:
    """`on_crashed`: restart a run whose process died or was told to stop, or end it."""
    async with get_client() as client:
        # The run that a worker hands to its hooks is the one it once submitted.
        now = await client.read_flow_run(flow_run.id)
        starts_again = await may_start_again(client, now)
    if starts_again:
        recover_soon(flow_run.id)
    elif now.state is not None and now.state.is_final():
        await settle(_job(flow, flow_run), ABANDONED, now)


def _job(flow: object, flow_run: FlowRun) -> Job:
    open_engine = injected(flow).open_engine
    return Job(_store(flow_run.id), flow_run_logger(flow_run), open_engine)


def _store(flow_run_id: object) -> AttemptStore:
    return AttemptStore(HostSettings().workdir, str(flow_run_id))
