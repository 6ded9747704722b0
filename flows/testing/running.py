"""Run the flow once, and gather everything that it left."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import ArtifactSort
from prefect.events import Event
from prefect.events.filters import EventFilter, EventOrder, EventResourceFilter

from flows.container_task import container_task
from flows.engine.contract import Engine
from flows.outcome import Outcome, OutcomeName
from flows.report.events import FINISHED, STARTED
from flows.report.run_json import RunReport
from flows.report.sentences import state_name
from flows.runtime.context import Dependencies
from flows.runtime.store import AttemptStore
from flows.testing.result import TaskResult

# A server of somebody else's stores events every five seconds.
_EVENTS_SECONDS = 20.0
_LOOK_SECONDS = 0.05
_UNNAMED = {"Completed": OutcomeName.SUCCEEDED, "Cancelled": OutcomeName.CANCELED}


async def run_task(
    payload: object, engine: Engine | Literal["docker"], workdir: Path
) -> TaskResult:
    """Run the flow with `payload` in this process; `workdir` is its `MOONMIND_WORKDIR`.

    Raises what the flow itself may raise, which is a fault of this package and no outcome.
    """
    flow = container_task
    if engine != "docker":
        flow = flow.bind(Dependencies(open_engine=lambda _: nullcontext(engine)))
    state: State[Any] = await flow(payload, return_state=True)
    job_id = str(state.state_details.flow_run_id)
    store, folder = AttemptStore(workdir, job_id), workdir / job_id
    attempt, run, output = store.last(), None, ""
    if attempt is not None:
        workspace, subdir = attempt.prepared.workspace, attempt.prepared.spec.artifacts_subdir
        output = _text(workspace.runner_log(subdir))
        if report := _text(workspace.run_json(subdir)):
            run = RunReport.model_validate_json(report)
    return TaskResult(
        outcome=attempt.outcome.name if attempt else await _outcome_of(state),
        state=state,
        run=run,
        spec=attempt.prepared.spec if attempt else None,
        events=await _events(job_id, len(store.attempts())),
        artifacts=await _artifacts(job_id),
        output=output,
        files=_task_files(run, folder / "artifacts") if run else {},
        folder=folder,
    )


async def _outcome_of(state: State[Any]) -> OutcomeName:
    """The outcome of a run that ended before there was an attempt."""
    for name in OutcomeName:
        if state.name == (state_name(Outcome(name)) or ""):
            return name
    if state.name not in _UNNAMED:
        await state.aresult()
    return _UNNAMED[state.name or ""]


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _task_files(run: RunReport, artifacts: Path) -> Mapping[str, Path]:
    """What `run.json` lists of the task's own, by the path below `$ARTIFACT_DIR`."""
    top = f"{run.artifacts_subdir}/"
    listed = (each.path for each in run.artifacts if each.kind == "file")
    return {
        path.removeprefix(top): artifacts / path
        for path in listed
        if path.startswith(top) and path != f"{top}logs/runner.log"
    }


async def _artifacts(job_id: str) -> Mapping[str, Any]:
    of_the_run = ArtifactFilterFlowRunId(any_=[UUID(job_id)])
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=of_the_run), sort=ArtifactSort.UPDATED_DESC
        )
    return {artifact.key: artifact.data for artifact in reversed(found) if artifact.key}


async def _events(job_id: str, attempts: int) -> tuple[Event, ...]:
    """The events that the server has stored, once it has all that the attempts emit."""
    wanted = EventFilter(
        resource=EventResourceFilter(id=[f"moonmind.task.{job_id}"]), order=EventOrder.ASC
    )
    expected = {(name, each + 1) for name in (STARTED, FINISHED) for each in range(attempts)}
    deadline = time.monotonic() + _EVENTS_SECONDS
    async with get_client() as client:
        while True:
            events = tuple((await client.read_events(wanted, limit=50)).events)
            told = {(event.event, event.payload["attempt"]) for event in events}
            if told >= expected or time.monotonic() > deadline:
                return events
            await asyncio.sleep(_LOOK_SECONDS)
