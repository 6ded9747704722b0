"""The flow `failure-summary`: how container tasks went over the last days, and why some failed.

Reads what the server knows: the final states of runs, counted by the server itself, and the
artifacts in which attempts left their facts. Events would not do: servers forget them in a week.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, TypeVar

from prefect import flow, get_client, get_run_logger, runtime
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import ArtifactFilter, FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from pydantic import Field

from flows.outcome import Outcome, OutcomeName
from flows.report.artifacts import recorded
from flows.report.events import emit_summary
from flows.report.names import FLOW_NAME, METADATA_KEY, state_name
from flows.report.summary import (
    AttemptFacts,
    Period,
    Summary,
    Unsuccessful,
    markdown,
    payload,
    sentence,
)

T = TypeVar("T")
SUMMARY_KEY = "container-task-summary"
# The most that the server gives at a time, and that are read in all: a run has its whole payload
# with it, an artifact some kilobytes.
_PAGE = 200
_MOST_RUNS = 2_000
_MOST_ATTEMPTS = 10_000
_OURS = FlowFilter.model_validate({"name": {"any_": [FLOW_NAME]}})
_METADATA = ArtifactFilter.model_validate({"key": {"any_": [METADATA_KEY]}})
_UNSUCCESSFUL = [StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]


@flow(name="failure-summary", persist_result=False)
async def failure_summary(days: Annotated[int, Field(ge=1, le=366)] = 7) -> str:
    """Count how container tasks ended in the last days, by outcome and cause, as an artifact.

    Args:
        days: How many days to look back; the same number before them is compared.

    Returns:
        The summary in a few lines, as a notification has it.
    """
    # A run that waited is still of its own week.
    until = runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    async with get_client() as client:
        summary = await look_back(client, Period(until - timedelta(days=days), until))
    await acreate_markdown_artifact(
        markdown(summary), key=SUMMARY_KEY, description=f"Container tasks from {summary.period}"
    )
    emit_summary(str(runtime.flow_run.id), payload(summary))
    get_run_logger().info(sentence(summary))
    return sentence(summary)


async def look_back(client: PrefectClient, period: Period) -> Summary:
    """What the server knows of the container tasks that ended in a period."""
    runs = partial(
        client.read_flow_runs,
        flow_filter=_OURS,
        flow_run_filter=_ended(period, *_UNSUCCESSFUL),
        sort=FlowRunSort.END_TIME_DESC,
    )
    artifacts = partial(
        client.read_artifacts,
        artifact_filter=_METADATA,
        flow_run_filter=_ended(period),
        sort=ArtifactSort.CREATED_DESC,
    )
    unsuccessful = [Unsuccessful.of(run) for run in await _read(runs, _MOST_RUNS)]
    found = await _read(artifacts, _MOST_ATTEMPTS)
    return Summary(
        period,
        outcomes=await _count(client, period),
        before=await _count(client, period.before),
        unsuccessful=unsuccessful,
        attempts=[made for each in found if (made := AttemptFacts.of(recorded(each)))],
        left_out=len(unsuccessful) >= _MOST_RUNS or len(found) >= _MOST_ATTEMPTS,
    )


async def _read(page: Callable[..., Awaitable[list[T]]], most: int) -> list[T]:
    found: list[T] = []
    while len(found) < most:
        read = await page(limit=_PAGE, offset=len(found))
        found += read
        if len(read) < _PAGE:
            break
    return found


async def _count(client: PrefectClient, period: Period) -> Mapping[OutcomeName, int]:
    counts = Counter[OutcomeName]()
    for outcome, states in _states(period):
        counts[outcome] += await client.count_flow_runs(flow_filter=_OURS, flow_run_filter=states)
    return +counts


def _states(period: Period) -> list[tuple[OutcomeName, FlowRunFilter]]:
    failed = {each: state_name(Outcome(each)) or "Failed" for each in OutcomeName}
    del failed[OutcomeName.SUCCEEDED], failed[OutcomeName.CANCELED]
    return [
        (OutcomeName.SUCCEEDED, _ended(period, StateType.COMPLETED)),
        *((each, _ended(period, StateType.FAILED, name=name)) for each, name in failed.items()),
        (OutcomeName.CANCELED, _ended(period, StateType.CANCELLED)),
        (OutcomeName.INFRASTRUCTURE, _ended(period, StateType.CRASHED)),
    ]


def _ended(period: Period, *types: StateType, name: str | None = None) -> FlowRunFilter:
    state = {"type": {"any_": types} if types else None, "name": {"any_": [name]} if name else None}
    moments = {"after_": period.since, "before_": period.until - timedelta(microseconds=1)}
    return FlowRunFilter.model_validate({"state": state, "end_time": moments})
