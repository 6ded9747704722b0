"""The order of a run and its outcome, on an engine that can be made to fail at every step."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows.engine.types import ContainerState
from flows.outcome import FailureClass, Outcome, OutcomeName, StoppedBy, container_outcome
from flows.payload.compiler import compile_spec
from flows.payload.parse import parse
from flows.payload.policy import Policy
from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.execution import RunOptions, run
from flows.runtime.observer import Observer
from flows.spec import ContainerSpec, Mount, Run
from flows.testing import FakeEngine
from tests.behaviours import busybox
from tests.runs import payload
from tests.specs import Nowhere

STEPS = ["pull", "create", "missing_workdir", "tail", "start", "inspect"]


def spec(*command: str, **container: Any) -> ContainerSpec:
    return compile_spec(
        parse(payload(*command, **({"workdir": "/bin"} | container))),
        Policy(stop_grace_seconds=1),
        Mount("bind", "/jobs/j", "/work/agent_jobs/j"),
        Run("j", attempt=1, worker="test", now=datetime.now(UTC)),
        default_timeout_seconds=30,
    )


@pytest.mark.parametrize(
    ("command", "limit", "name", "failure_class", "exit_code"),
    [
        (["print", "hi"], 30, OutcomeName.SUCCEEDED, None, 0),
        (["exit", "3"], 30, OutcomeName.FAILED, FailureClass.EXIT_CODE, 3),
        (["exit", "137"], 30, OutcomeName.FAILED, FailureClass.EXIT_CODE, 137),
        (["nosuch"], 30, OutcomeName.FAILED, FailureClass.COMMAND_NOT_RUNNABLE, 127),
        (["eat-memory"], 30, OutcomeName.OUT_OF_MEMORY, FailureClass.MEMORY, 137),
        (["sleep", "60"], 1, OutcomeName.TIMED_OUT, FailureClass.TIMEOUT, 143),
    ],
)
async def test_the_end_of_the_container_decides_the_outcome(
    command: list[str],
    limit: int,
    name: OutcomeName,
    failure_class: FailureClass | None,
    exit_code: int,
) -> None:
    engine = busybox()
    outcome = await run(engine, spec(*command, timeoutSeconds=limit), Nowhere())
    assert (outcome.name, outcome.failure_class) == (name, failure_class)
    assert outcome.exit_code == exit_code
    assert outcome.timed_out is (name is OutcomeName.TIMED_OUT)
    assert (outcome.error is None) is (name is OutcomeName.SUCCEEDED)
    assert engine.containers == {}


@pytest.mark.parametrize("step", STEPS)
async def test_an_engine_that_fails_at_any_step_is_an_infrastructure_outcome_and_leaves_nothing(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.runtime.engine_wait.PATIENCE_SECONDS", 0.1)
    engine = busybox(breaks_at=step)
    outcome = await run(engine, spec("print", "hi"), Nowhere())
    assert outcome.name is OutcomeName.INFRASTRUCTURE
    assert (outcome.error or "").startswith("Docker ")
    assert engine.containers == {}
    assert (engine.calls[-1] == "destroy") is (step != "pull")


async def test_an_engine_that_cannot_wait_for_a_container_is_asked_whether_it_runs() -> None:
    engine = busybox(breaks_at="wait")
    outcome = await run(engine, spec("sleep", "0.3"), Nowhere())
    assert (outcome.name, outcome.exit_code) == (OutcomeName.SUCCEEDED, 0)
    assert engine.containers == {}


async def test_a_clean_up_that_fails_is_told_beside_the_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.runtime.engine_wait.PATIENCE_SECONDS", 0.2)
    engine = busybox(breaks_at="destroy")
    outcome = await run(engine, spec("print", "hi"), Nowhere())
    assert outcome.name is OutcomeName.SUCCEEDED
    assert outcome.cleanup_error == "Docker does not answer while removing the container"


async def test_a_missing_image_is_an_image_error_and_nothing_is_created() -> None:
    engine = FakeEngine(images=())
    outcome = await run(engine, spec("print", "hi"), Nowhere())
    assert (outcome.name, outcome.failure_class) == (
        OutcomeName.IMAGE_ERROR,
        FailureClass.IMAGE_NOT_FOUND,
    )
    assert "create" not in engine.calls


async def test_a_missing_working_directory_fails_before_the_start() -> None:
    engine = busybox()
    outcome = await run(engine, spec("print", "hi", workdir="/no/such"), Nowhere())
    assert outcome.failure_class is FailureClass.WORKDIR_MISSING
    assert "/no/such" in (outcome.error or "")
    assert "start" not in engine.calls


async def begun(engine: FakeEngine, task: ContainerSpec, cancellation: Cancellation) -> Any:
    """A run that waits for its container."""
    running = asyncio.create_task(
        run(engine, task, Nowhere(), RunOptions(cancellation=cancellation))
    )
    while "wait" not in engine.calls:
        await asyncio.sleep(0)
    return running


@pytest.mark.parametrize(
    ("reason", "name"),
    [(Reason.CANCEL, OutcomeName.CANCELED), (Reason.DEADLINE, OutcomeName.TIMED_OUT)],
)
async def test_a_run_that_is_interrupted_stops_its_container_and_says_why(
    reason: Reason, name: OutcomeName
) -> None:
    engine, cancellation = busybox(), Cancellation()
    running = await begun(engine, spec("sleep", "60"), cancellation)
    cancellation.request(reason)
    cancellation.request(Reason.HAND_OVER)
    outcome = await running
    assert (outcome.name, outcome.stopped_by) == (name, reason.stopped_by)
    assert outcome.exit_code == 143
    assert engine.containers == {}


async def test_a_run_that_is_cancelled_stops_its_container() -> None:
    engine = busybox()
    running = await begun(engine, spec("sleep", "60"), Cancellation())
    running.cancel()
    outcome = await running
    assert (outcome.name, outcome.exit_code) == (OutcomeName.CANCELED, 143)
    assert engine.containers == {}


@pytest.mark.parametrize("reason", [Reason.CANCEL, Reason.DEADLINE])
async def test_a_run_that_is_interrupted_while_it_pulls_creates_nothing(reason: Reason) -> None:
    engine, cancellation = busybox(), Cancellation()
    cancellation.request(reason)
    outcome = await run(
        engine, spec("sleep", "60"), Nowhere(), RunOptions(cancellation=cancellation)
    )
    assert (outcome.timed_out, outcome.exit_code) == (reason is Reason.DEADLINE, None)
    assert "before its container ran" in (outcome.error or "")
    assert "create" not in engine.calls


async def test_a_pull_has_a_limit_of_its_own() -> None:
    engine = busybox(hangs_at="pull")
    outcome = await run(engine, spec("print", "hi", pullTimeoutSeconds=1), Nowhere())
    assert outcome.name is OutcomeName.IMAGE_ERROR
    assert "longer than its limit of 1 s" in (outcome.error or "")


async def test_a_run_that_is_cancelled_leaves_its_container_to_be_adopted() -> None:
    async def hands_over() -> Reason:
        return Reason.HAND_OVER

    engine, task = busybox(), spec("sleep", "0.2")
    running = await begun(engine, task, Cancellation(hands_over))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await engine.find(task)
    adopted = await run(engine, task, Nowhere(), RunOptions(adopt=True))
    assert (adopted.name, adopted.exit_code) == (OutcomeName.SUCCEEDED, 0)
    assert engine.calls.count("create") == 1
    assert engine.containers == {}


@pytest.mark.parametrize(
    ("paused_seconds", "name"), [(0.0, OutcomeName.TIMED_OUT), (90.0, OutcomeName.SUCCEEDED)]
)
async def test_the_time_for_which_a_container_was_paused_is_none_of_its_limit(
    paused_seconds: float, name: OutcomeName
) -> None:
    engine, task = busybox(), spec("sleep", "0.2")
    await engine.create(task, await engine.pull(task), {})
    await engine.start(task)
    await engine.pause(task)
    container = engine.containers[task.name]
    container.state = replace(
        container.state, started_at=datetime.now(UTC) - timedelta(seconds=100)
    )
    options = RunOptions(adopt=True, paused_seconds=paused_seconds)
    outcome = await run(engine, task, Nowhere(), options)
    assert outcome.name is name
    assert "unpause" in engine.calls


@pytest.mark.parametrize(
    ("exit_code", "name", "stopped_by"),
    [
        (0, OutcomeName.SUCCEEDED, StoppedBy.CONTAINER),
        (3, OutcomeName.FAILED, StoppedBy.CONTAINER),
        (143, OutcomeName.INFRASTRUCTURE, StoppedBy.ENGINE),
    ],
)
async def test_an_engine_that_restarts_is_asked_again_how_its_container_fared(
    exit_code: int, name: OutcomeName, stopped_by: StoppedBy
) -> None:
    engine = busybox(breaks_at="wait", times=1)
    outcome = await run(engine, spec("exit", str(exit_code)), Nowhere())
    assert (outcome.name, outcome.stopped_by) == (name, stopped_by)
    assert engine.containers == {}


@pytest.mark.parametrize("killed_child", [True, False])
def test_a_task_that_survived_the_memory_kill_of_a_child_succeeded(killed_child: bool) -> None:
    state = ContainerState(running=False, exit_code=0, oom_killed=killed_child)
    outcome = container_outcome(spec("make"), state, StoppedBy.CONTAINER)
    assert (outcome.name, outcome.oom_killed) == (OutcomeName.SUCCEEDED, killed_child)


async def test_results_are_collected_before_the_outcome_is_noted_and_the_container_removed() -> (
    None
):
    engine = busybox()
    told: list[tuple[str, object]] = []

    class Noted(Observer):
        def ended(self, outcome: Outcome) -> None:
            told.append(("noted", outcome.error))

    async def collect(outcome: Outcome) -> Outcome:
        told.append(("collected", outcome.exit_code))
        assert "destroy" not in engine.calls
        return replace(outcome, error="changed", cleanup_error="kept")

    options = RunOptions(observer=Noted(), collect=collect)
    outcome = await run(engine, spec("print", "hi"), Nowhere(), options)
    assert told == [("collected", 0), ("noted", "changed")]
    assert (outcome.error, outcome.cleanup_error) == ("changed", "kept")
    assert engine.containers == {}


@pytest.mark.parametrize("step", ["pull", "create", "start", "inspect"])
async def test_a_container_of_which_nobody_knows_that_it_has_stopped_is_collected_from_by_nobody(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.runtime.engine_wait.PATIENCE_SECONDS", 0.1)

    async def collect(outcome: Outcome) -> Outcome:
        raise AssertionError("its files may still change")

    engine = busybox(breaks_at=step)
    outcome = await run(engine, spec("print", "hi"), Nowhere(), RunOptions(collect=collect))
    assert outcome.name is OutcomeName.INFRASTRUCTURE
