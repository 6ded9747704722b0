"""What those get who test their own payloads; tests/test_wheel.py runs the documentation's."""

from typing import Any, Literal

import pytest
from prefect.blocks.system import Secret
from pydantic import SecretStr

from flows.outcome import OutcomeName
from flows.testing import ContainerTaskRun, FakeEngine, Process, TaskResult, Terminated
from tests.runs import payload, shell


def greets(process: Process) -> None:
    (process.artifacts / "deep").mkdir()
    (process.artifacts / "deep" / "greeting.txt").write_text("hello\n")
    process.path("in-repo").touch()
    process.print("said", "it")


GREETS = (
    "mkdir $ARTIFACT_DIR/deep; echo hello >$ARTIFACT_DIR/deep/greeting.txt; touch in-repo; "
    "echo said it"
)


@pytest.mark.parametrize(
    "engine",
    [FakeEngine(greets), pytest.param("docker", marks=pytest.mark.docker)],
    ids=["fake", "docker"],
)
def test_a_run_is_told_whole_on_either_engine(
    container_task_run: ContainerTaskRun, engine: FakeEngine | Literal["docker"]
) -> None:
    result = container_task_run(shell(GREETS, artifactsSubdir="results/1"), engine)
    result.assert_outcome("succeeded")
    assert (result.outcome, result.message) == (OutcomeName.SUCCEEDED, "exited 0")
    assert result.state.is_completed()
    assert result.run is not None
    assert result.spec is not None
    assert (result.run.exit_code, result.run.container_name) == (0, result.spec.name)
    assert [event.event for event in result.events] == [
        "moonmind.task.container.started",
        "moonmind.task.container.finished",
    ]
    finished = result.assert_event(
        "moonmind.task.container.finished", attempt=1, outcome="succeeded"
    )
    assert result.events[-1] == finished
    assert set(result.artifacts) >= {"container-run", "container-run-metadata"}
    assert result.output == "said it\n"
    assert list(result.files) == ["deep/greeting.txt"]
    assert result.assert_file("deep/greeting.txt", contains="hello").read_text() == "hello\n"
    assert (result.folder / "repo" / "in-repo").exists()


async def test_a_run_works_in_an_async_test(container_task_run: ContainerTaskRun) -> None:
    container_task_run(payload("x")).assert_outcome("succeeded")


@pytest.fixture(scope="module")
def failed(container_task_api: None, tmp_path_factory: pytest.TempPathFactory) -> TaskResult:
    """A run that failed after it left a file."""

    def fails(process: Process) -> int:
        greets(process)
        return 3

    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("failed")
        monkeypatch.setenv("MOONMIND_WORKDIR", str(folder))
        return ContainerTaskRun(folder, print)(payload("make", "all"), FakeEngine(fails))


@pytest.mark.parametrize(
    ("assertion", "arguments", "more", "sentence"),
    [
        (
            TaskResult.assert_outcome,
            ["succeeded"],
            {},
            "the outcome is failed, not succeeded: exited 3: see the end of runner.log. "
            "Its last line: said it",
        ),
        (
            TaskResult.assert_event,
            ["finished"],
            {"exitCode": 4},
            "no event finished, exitCode=4; there were: started (attempt=1), "
            "finished (attempt=1, outcome='failed', exitCode=3)",
        ),
        (TaskResult.assert_event, ["ended"], {}, "no event ended; there were: started"),
        (
            TaskResult.assert_file,
            ["greeting.txt"],
            {},
            "the task left no file greeting.txt; there were: deep/greeting.txt",
        ),
        (
            TaskResult.assert_file,
            ["deep/greeting.txt"],
            {"contains": "bye"},
            "deep/greeting.txt lacks 'bye'; it begins 'hello\\n'",
        ),
    ],
)
def test_an_assertion_that_fails_says_what_there_was(
    failed: TaskResult, assertion: Any, arguments: list[str], more: Any, sentence: str
) -> None:
    with pytest.raises(AssertionError) as caught:
        assertion(failed, *arguments, **more)
    assert str(caught.value).startswith(sentence)


def test_an_outcome_that_does_not_exist_is_no_outcome_to_compare_with(failed: TaskResult) -> None:
    with pytest.raises(ValueError, match="'success' is not a valid OutcomeName"):
        failed.assert_outcome("success")


def test_what_a_program_raises_reaches_its_test_once(container_task_run: ContainerTaskRun) -> None:
    def asserts(process: Process) -> None:
        assert process.spec.command == ("no", "such"), "another command"

    engine = FakeEngine(asserts)
    with pytest.raises(AssertionError, match="another command"):
        container_task_run(payload("make"), engine)
    container_task_run(payload("no", "such"), engine).assert_outcome("succeeded")


def test_a_program_sees_what_its_container_would(container_task_run: ContainerTaskRun) -> None:
    Secret(value=SecretStr("hush")).save("task-testing")
    cache = [{"name": "testing_cache", "target": "/cache"}]

    def looks(process: Process) -> None:
        kept = process.path("/cache/kept")
        process.print(kept.exists(), process.env["TOKEN"], process.path() == process.path("."))
        kept.touch()
        with pytest.raises(ValueError, match=r"^/etc/passwd is in the image, of which"):
            process.path("/etc/passwd")

    engine = FakeEngine(looks)
    task = payload("x", cacheVolumes=cache, secrets={"TOKEN": "task-testing"})
    assert container_task_run(task, engine).output == "False *** True\n"
    assert container_task_run(task, engine).output == "True *** True\n"
    assert container_task_run(task, FakeEngine(looks)).output.startswith("False")


def test_a_program_that_is_stopped_may_end_by_itself(container_task_run: ContainerTaskRun) -> None:
    def tidies_up(process: Process) -> int:
        try:
            process.sleep(60)
        except Terminated:
            process.print("tidied up")
        return 9

    result = container_task_run(payload("x", timeoutSeconds=1), FakeEngine(tidies_up))
    result.assert_outcome("timed-out")
    assert result.run is not None
    assert (result.run.exit_code, result.output) == (9, "tidied up\n")


def test_a_payload_that_is_rejected_has_no_run(container_task_run: ContainerTaskRun) -> None:
    result = container_task_run(payload())
    result.assert_outcome("rejected")
    assert (result.run, result.spec, result.events, result.output) == (None, None, (), "")
    assert "task.container.command" in result.artifacts["container-run"]
    assert result.story().splitlines()[2:] == [
        "ran:     none",
        "events:  none",
        "files:   none",
        f"folder:  {result.folder}",
        "output:  none",
    ]


def test_a_run_has_the_engine_that_it_is_given_and_another_run_its_own(
    container_task_run: ContainerTaskRun,
) -> None:
    first, second = FakeEngine(), FakeEngine(images=())
    container_task_run(payload("x"), first).assert_outcome("succeeded")
    container_task_run(payload("x"), second).assert_outcome("image-error")
    assert "create" in first.calls
    assert "create" not in second.calls
