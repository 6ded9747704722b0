"""Flow runs as workers read them, and what they write on them: labels, tags, a rejection."""

import contextlib
import logging
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Concatenate, ParamSpec

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Failed
from prefect.types import DateTime
from tenacity import AsyncRetrying, stop_after_attempt, wait_exponential

from flows.outcome import FailureClass, failed
from flows.report import page
from flows.report.names import FLOW_NAME, REPORT_KEY, state_message, state_name

# Labels of a flow run: the host and the worker that run it, or did last.
HOST_LABEL = "moonmind.host"
WORKER_LABEL = "prefect.worker.name"

# The most that the server gives at a time.
_PAGE = 200
_LOGGER = logging.getLogger(__name__)
_P = ParamSpec("_P")
_Write = Callable[Concatenate[PrefectClient, FlowRun, _P], Coroutine[Any, Any, None]]


def _retried(write: _Write[_P]) -> _Write[_P]:
    """Try five times, then warn: a run that cannot be written on must not end the worker."""

    async def retried(
        client: PrefectClient, flow_run: FlowRun, /, *words: _P.args, **settings: _P.kwargs
    ) -> None:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(5), wait=wait_exponential(max=30), reraise=True
        )
        try:
            await retrying(write, client, flow_run, *words, **settings)
        except Exception as error:  # noqa: BLE001 - one run must not end the worker
            _LOGGER.warning("Could not write on the flow run %s: %r", flow_run.id, error)

    return retried


async def read_runs(
    client: PrefectClient, *types: StateType, due_after: datetime | None = None
) -> list[FlowRun]:
    """All runs of container tasks that are in a state of these types."""
    states = FlowRunFilterStateType(any_=list(types))
    due = FlowRunFilterExpectedStartTime(after_=DateTime.instance(due_after)) if due_after else None
    wanted = FlowRunFilter(state=FlowRunFilterState(type=states), expected_start_time=due)
    ours, found = FlowFilter(name=FlowFilterName(any_=[FLOW_NAME])), list[FlowRun]()
    while True:
        page = await client.read_flow_runs(
            flow_filter=ours, flow_run_filter=wanted, limit=_PAGE, offset=len(found)
        )
        found += page
        if len(page) < _PAGE:
            return found


def host_of(run: FlowRun) -> str | None:
    """The host that runs it, or did last; None where no host does."""
    return str((run.labels or {}).get(HOST_LABEL) or "") or None


def worker_of(run: FlowRun) -> str:
    """The worker that runs it, or did last."""
    return str((run.labels or {}).get(WORKER_LABEL))


@_retried
async def label_host(
    client: PrefectClient, flow_run: FlowRun, worker: str, host: str, had_tag: bool
) -> None:
    """Label a claimed run with its worker and host, and remove the tag of what it waited for."""
    await client.update_flow_run_labels(flow_run.id, {WORKER_LABEL: worker, HOST_LABEL: host})
    others = _other_tags(flow_run)
    if had_tag or others != flow_run.tags:
        await client.update_flow_run(flow_run.id, tags=others)


async def tag_waiting(client: PrefectClient, flow_run: FlowRun, sentence: str) -> None:
    """Tag a run with what it waits for.

    Another worker may be about to claim the run: a state would undo that.
    """
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
    """The run's tags without what a worker, this one or an earlier, said of its waiting."""
    return [tag for tag in flow_run.tags if not tag.startswith("waiting for ")]
