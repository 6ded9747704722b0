"""Pytest fixtures: a Prefect test server, and `container_task_run`, which runs the flow on it."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import ArtifactSort
from prefect.events import Event
from prefect.events.filters import EventFilter, EventOrder, EventResourceFilter
from prefect.settings import (
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL,
    temporary_settings,
)

from flows.container_task import container_task
from flows.engine.contract import Engine
from flows.outcome import OutcomeName
from flows.report.events import FINISHED, STARTED
from flows.report.names import outcome_of_state
from flows.report.run_json import RunReport
from flows.runtime.context import Dependencies
from flows.runtime.store import AttemptStore
from flows.spec import ContainerSpec, command_summary
from flows.testing.fake_engine import FakeEngine

_TELLING = ("attempt", "outcome", "exitCode")
_SERVER = {
    PREFECT_SERVER_ANALYTICS_ENABLED: False,
    # A test waits for its events; by default they are stored every five seconds.
    PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL: 0.1,
}
# A server of somebody else's stores events every five seconds.
_EVENTS_SECONDS = 20.0


@dataclass(frozen=True, repr=False)
class TaskResult:
    """One run of `container_task` that is over.

    `run` is its `run.json`, and `spec` what the payload came to, both None where the run ended
    before its execute stage. `events` are in order, the `artifacts` of the UI by their key.
    `output` is the container's; `files` has what the task left in `$ARTIFACT_DIR`, by the path
    below it, and `folder` is the whole job's. Of several attempts, these are the last one's.
    """

    outcome: OutcomeName
    state: State[Any]
    run: RunReport | None
    spec: ContainerSpec | None
    events: tuple[Event, ...]
    artifacts: Mapping[str, Any]
    output: str
    files: Mapping[str, Path]
    folder: Path

    @property
    def message(self) -> str:
        """The state's: how the run ended, and what to do next."""
        return self.state.message or ""

    def assert_outcome(self, outcome: str) -> None:
        """Fail unless the run ended so, one of `flows.outcome.OutcomeName`."""
        __tracebackhide__ = True
        if self.outcome != OutcomeName(outcome):
            raise AssertionError(f"the outcome is {self.outcome}, not {outcome}: {self.message}")

    def assert_event(self, name: str, **payload: object) -> Event:
        """The first event of this name, in full or its last word, whose payload has these values.

        Fails where there is none.
        """
        __tracebackhide__ = True
        for event in self.events:
            is_named = name in (event.event, event.event.rpartition(".")[2])
            if is_named and event.payload.items() >= payload.items():
                return event
        wanted = "".join(f", {key}={value!r}" for key, value in payload.items())
        raise AssertionError(
            f"no event {name}{wanted}; there were: {self._told_events() or 'none'}"
        )

    def assert_file(self, path: str, contains: str = "") -> Path:
        """The file at this path below `$ARTIFACT_DIR`; fails where it is not, or lacks a text."""
        __tracebackhide__ = True
        if path not in self.files:
            left = ", ".join(self.files) or "none"
            raise AssertionError(f"the task left no file {path}; there were: {left}")
        text = self.files[path].read_text(errors="replace") if contains else ""
        if contains not in text:
            raise AssertionError(f"{path} lacks {contains!r}; it begins {text[:500]!r}")
        return self.files[path]

    def __repr__(self) -> str:
        return f"<TaskResult {self.outcome}: {self.message}>"

    def story(self) -> str:
        """All of it for a person, as pytest shows it under a test that failed."""
        ran = f"{command_summary(self.spec.command)} in {self.spec.image}" if self.spec else "none"
        lines = self.output.splitlines()
        shown = lines[-20:]
        facts = {
            "outcome": self.outcome,
            "message": self.message,
            "ran": ran,
            "events": self._told_events() or "none",
            "files": ", ".join(self.files) or "none",
            "folder": self.folder,
            "output": f"the last {len(shown)} of {len(lines)} lines" if lines else "none",
        }
        return "\n".join([*(f"{key + ':':9}{value}" for key, value in facts.items()), *shown])

    def _told_events(self) -> str:
        summaries = []
        for event in self.events:
            told = [f"{key}={event.payload[key]!r}" for key in _TELLING if key in event.payload]
            summaries.append(f"{event.event.rpartition('.')[2]} ({', '.join(told)})")
        return ", ".join(summaries)


class ContainerTaskRun:
    """The fixture `container_task_run`."""

    def __init__(self, workdir: Path, tell: Callable[[str], None]) -> None:
        """`workdir` is the `MOONMIND_WORKDIR`; `tell` gets each run's story."""
        self._workdir = workdir
        self._tell = tell

    def __call__(
        self, payload: object, engine: Engine | Literal["docker"] | None = None
    ) -> TaskResult:
        """Run the whole flow with `payload`, and wait for its end.

        By default each command does nothing and exits 0; a `FakeEngine` with a program of yours
        does what that does, and `"docker"` is the Docker Engine that `DOCKER_HOST` names, with
        real images. What a program raises that is no way to end a container, this raises.
        """
        engine = engine or FakeEngine()
        work = partial(asyncio.run, run_task(payload, engine, self._workdir))
        # In a thread, as the loop of an async test cannot run another one.
        with ThreadPoolExecutor(max_workers=1) as executor:
            result = executor.submit(copy_context().run, work).result()
        self._tell(result.story())
        if isinstance(engine, FakeEngine) and (failures := engine.take_failures()):
            raise failures[0]
        return result


@pytest.fixture(scope="session")
def container_task_api() -> Iterator[None]:
    """A Prefect API with an empty database, for the whole session; it takes some seconds.

    Where your tests have one already, override this fixture with one that depends on yours.
    """
    # It loads Prefect's server, which costs seconds in whichever process imports it.
    from prefect.testing.utilities import prefect_test_harness

    with temporary_settings(_SERVER), prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def container_task_run(
    container_task_api: None,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> ContainerTaskRun:
    """Call it with a payload, and it gives a `TaskResult`; see `ContainerTaskRun.__call__`."""
    workdir = tmp_path / "agent_jobs"
    monkeypatch.setenv("MOONMIND_WORKDIR", str(workdir))
    monkeypatch.delenv("MOONMIND_CONTAINER_WORKSPACE_VOLUME", raising=False)
    return ContainerTaskRun(
        workdir, partial(request.node.add_report_section, "call", "container task")
    )


async def run_task(
    payload: object, engine: Engine | Literal["docker"], workdir: Path
) -> TaskResult:
    """Run the flow with `payload` in this process; `workdir` is its `MOONMIND_WORKDIR`. Raises what
    the flow itself may raise, which is a fault of this package and no outcome."""
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
    if state.name in ("Failed", "Crashed"):
        await state.aresult()
    return outcome_of_state(state.type, state.name or "")


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
    wanted = ArtifactFilter.model_validate({"flow_run_id": {"any_": [job_id]}})
    async with get_client() as client:
        found = await client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.UPDATED_DESC)
    return {artifact.key: artifact.data for artifact in reversed(found) if artifact.key}


async def _events(job_id: str, attempts: int) -> tuple[Event, ...]:
    """The events that the server has stored, once it has all that the attempts emit."""
    resource = EventResourceFilter(id=[f"moonmind.task.{job_id}"])
    wanted = EventFilter(resource=resource, order=EventOrder.ASC)
    expected = {(name, each + 1) for name in (STARTED, FINISHED) for each in range(attempts)}
    deadline = time.monotonic() + _EVENTS_SECONDS
    async with get_client() as client:
        while True:
            events = tuple((await client.read_events(wanted, limit=50)).events)
            told = {(event.event, event.payload["attempt"]) for event in events}
            if told >= expected or time.monotonic() > deadline:
                return events
            await asyncio.sleep(0.05)
