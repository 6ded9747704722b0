"""Flow runs as workers read them, and what they write on them: labels, tags, a rejection."""

import contextlib
import logging
from datetime import datetime
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Failed
from prefect.types import DateTime
from tenacity import RetryCallState, retry, stop_after_attempt, wait_exponential

from flows.outcome import FailureClass, failed
from flows.report import page
from flows.report.names import FLOW_NAME, REPORT_KEY, state_message, state_name
from flows.runtime.run_states import HOST_LABEL, WORKER_LABEL

# The most that the server gives at a time.
_PAGE = 200
_LOGGER = logging.getLogger(__name__)


def _warn(call: RetryCallState) -> None:
    error = call.outcome.exception() if call.outcome else None
    _LOGGER.warning("Could not write on the flow run %s: %r", call.args[1].id, error)


# A run that cannot be written on must not end the worker.
_retried = retry(
    stop=stop_after_attempt(5), wait=wait_exponential(max=30), retry_error_callback=_warn
)


async def read_runs(
    client: PrefectClient,
    *types: StateType,
    ended_after: datetime | None = None,
    has_begun: bool = False,
) -> list[FlowRun]:
    """All runs of container tasks in a state of these types; with `has_begun`, those that were
    Running once."""
    states = FlowRunFilterStateType(any_=list(types))
    end = FlowRunFilterEndTime(after_=DateTime.instance(ended_after)) if ended_after else None
    start = FlowRunFilterStartTime(is_null_=False) if has_begun else None
    wanted = FlowRunFilter(state=FlowRunFilterState(type=states), end_time=end, start_time=start)
    ours, found = FlowFilter(name=FlowFilterName(any_=[FLOW_NAME])), dict[UUID, FlowRun]()
    read = 0
    while True:
        page = await client.read_flow_runs(
            flow_filter=ours, flow_run_filter=wanted, limit=_PAGE, offset=read
        )
        found |= {run.id: run for run in page}
        read += len(page)
        if len(page) < _PAGE:
            return list(found.values())


async def label_host(
    client: PrefectClient, flow_run: FlowRun, worker: str, host: str, had_tag: bool
) -> None:
    """Label a claimed run with its worker and host, and remove the tag of what it waited for."""
    await client.update_flow_run_labels(flow_run.id, {WORKER_LABEL: worker, HOST_LABEL: host})
    others = _other_tags(flow_run)
    if had_tag or others != flow_run.tags:
        await client.update_flow_run(flow_run.id, tags=others)


async def tag_waiting(client: PrefectClient, flow_run: FlowRun, sentence: str) -> None:
    """Tag a run with what it waits for; a state would undo another worker's claim."""
    with contextlib.suppress(ObjectNotFound):
        await client.update_flow_run(flow_run.id, tags=[*_other_tags(flow_run), sentence])


@_retried
async def reject(client: PrefectClient, flow_run: FlowRun, sentence: str) -> None:
    """Set a run that can never start to Failed, with the report of a rejection."""
    outcome = failed(FailureClass.LIMITS, sentence)
    report = ArtifactCreate(
        key=REPORT_KEY,
        type="markdown",
        data=page.rejection_markdown(outcome),
        flow_run_id=flow_run.id,
    )
    await client.create_artifact(report)
    state: State[None] = Failed(name=state_name(outcome), message=state_message(outcome))
    await client.set_flow_run_state(flow_run.id, state)


def _other_tags(flow_run: FlowRun) -> list[str]:
    return [tag for tag in flow_run.tags if not tag.startswith("waiting for ")]
