"""Outputs and test reports of real runs: in the state, in run.json, and on the page in the UI."""

import asyncio
import json
import logging
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from prefect.blocks.system import Secret
from pydantic import SecretStr

from flows.attempt import Attempt, Prepared, RetryRules
from flows.engine.docker.engine import DockerEngine
from flows.masking import Masker
from flows.outcome import CANCELED, Outcome
from flows.outputs.verdict import collected, verdict_on
from flows.results import Results
from flows.runtime.collect import collect_results
from flows.runtime.context import Job
from flows.runtime.ending import finish
from flows.runtime.execution import RunOptions, run
from flows.runtime.store import AttemptStore
from flows.spec import Run
from flows.workspace.folder import Workspace
from tests.git_server import commit_all, git_daemon
from tests.rendered import rows as rows_of
from tests.runs import Runner, left_on_engine, shell
from tests.specs import Nowhere, compiled
from tests.test_flow import SCHEMA, artifacts_of

pytestmark = pytest.mark.docker

TOKEN = "s3cret-value"
FAILING = """cat > report.xml <<END
<testsuites><testsuite name="s"><testcase classname="org.FooTest" name="bar" time="0.1">
<failure message="expected $TOKEN"/></testcase><testcase classname="org.FooTest" name="ok"/>
</testsuite></testsuites>
END
"""


async def test_what_a_task_was_to_leave_is_collected_and_told(runner: Runner) -> None:
    done = await runner(
        shell(
            "mkdir -p build/deep; printf abc > build/deep/a.zip; ln -s /etc/passwd build/b.zip; "
            "printf x > $ARTIFACT_DIR/coverage.txt",
            outputs=[
                {"path": "build/**/*.zip", "required": True},
                {"path": "$ARTIFACT_DIR/*.txt"},
                {"path": "docs/"},
            ],
        )
    )
    assert done.message == "exited 0"
    facts = done.run_json
    checker = FormatChecker()
    Draft202012Validator(json.loads(SCHEMA.read_text()), format_checker=checker).validate(facts)
    assert facts["tests"] is None
    told = [(o["path"], o["collected"], o["collectedBytes"], o["rejected"], o["missing"])
            for o in facts["outputs"]]  # fmt: skip
    assert told == [
        ("build/**/*.zip", 1, 3, 1, False),
        ("$ARTIFACT_DIR/*.txt", 1, 1, 0, False),
        ("docs/**", 0, 0, 0, True),
    ]
    assert done.file("container/outputs/build/deep/a.zip").read_text() == "abc"
    listed = {item["path"] for item in facts["artifacts"]}
    assert {"container/outputs/build/deep/a.zip", "container/metadata/outputs.json"} <= listed
    shown = await artifacts_of(done)
    rows = rows_of(shown["container-run-outputs"])
    assert [(row["result"], row["file"]) for row in rows] == [
        ("missing", ""),
        ("rejected", "repo/build/b.zip"),
        ("collected", "container/outputs/build/deep/a.zip"),
        ("collected", "container/coverage.txt"),
    ]
    assert shown["container-run-files"] == f"`{done.folder / 'artifacts'}`"


async def test_a_run_without_outputs_and_reports_gets_no_tables_of_them(runner: Runner) -> None:
    done = await runner(shell("true"))
    assert (done.run_json["outputs"], done.run_json["tests"]) == ([], None)
    assert {*await artifacts_of(done)} == {"container-run", "container-run-metadata"}


async def test_a_run_that_leaves_no_required_output_has_failed(runner: Runner) -> None:
    done = await runner(shell("true", outputs=[{"path": "a.zip", "required": True}]))
    assert (done.state.type.value, done.state.name) == ("FAILED", "Failed")
    assert done.message.startswith("exited 0 but left no file for the required output a.zip: ")
    facts = done.run_json
    assert (facts["outcome"], facts["failureClass"], facts["exitCode"]) == (
        "failed", "output-missing", 0,
    )  # fmt: skip


async def test_tests_that_failed_are_in_the_state_and_on_the_page(runner: Runner) -> None:
    done = await runner(
        shell(
            f"TOKEN=nothing; {FAILING} mkdir $ARTIFACT_DIR/test-results; "
            "cp report.xml $ARTIFACT_DIR/test-results/copy.xml; exit 1",
            outputs=[{"path": "report.xml", "type": "junit"}],
        )
    )
    assert done.message.startswith("2 of 4 tests failed: FooTest.bar, FooTest.bar; it exited 1: ")
    facts = done.run_json
    assert (facts["outcome"], facts["failureClass"]) == ("failed", "exit-code")
    assert facts["tests"] == {
        "total": 4, "passed": 2, "failed": 2, "errors": 0, "skipped": 0, "flaky": 0, "files": 2,
        "unreadable": 0, "unreadableReports": [],
        "failures": [{"name": "FooTest.bar", "message": "expected nothing"}] * 2,
    }  # fmt: skip
    rows = rows_of((await artifacts_of(done))["container-run-tests"])
    assert [row["result"] for row in rows] == ["FAILED", "FAILED", "passed", "passed"]
    assert rows[0]["message"] == "expected nothing"


@pytest.mark.parametrize(
    ("script", "limits", "outcome"),
    [
        ("sleep 60", {"timeoutSeconds": 2}, "timed-out"),
        ("exit 3", {}, "failed"),
    ],
)
async def test_what_a_run_left_that_did_not_succeed_is_collected_too(
    runner: Runner, script: str, limits: dict[str, Any], outcome: str
) -> None:
    outputs = [{"path": "partial.txt", "required": True}, {"path": "no", "required": True}]
    done = await runner(shell(f"echo abc > partial.txt; {script}", outputs=outputs, **limits))
    assert done.run_json["outcome"] == outcome
    assert [each["collected"] for each in done.run_json["outputs"]] == [1, 0]
    assert done.file("container/outputs/partial.txt").read_text() == "abc\n"


async def test_a_container_that_never_ran_has_left_nothing_to_collect(runner: Runner) -> None:
    outputs = [{"path": "a", "required": True}]
    done = await runner(shell("true", image="moonmind-local/no-such:1", outputs=outputs))
    assert (done.run_json["outcome"], done.run_json["outputs"]) == ("image-error", None)


async def test_a_secret_that_a_test_report_quotes_is_told_to_nobody(runner: Runner) -> None:
    await Secret(value=SecretStr(TOKEN)).asave("task-report", overwrite=True)
    done = await runner(
        shell(
            f"{FAILING}sed -i s/bar/$TOKEN/ report.xml; exit 1",
            secrets={"TOKEN": "task-report"},
            outputs=[{"path": "report.xml", "type": "junit"}],
        )
    )
    assert done.message.startswith("1 of 2 tests failed: FooTest.***; it exited 1")
    rows = rows_of((await artifacts_of(done))["container-run-tests"])
    assert (rows[0]["test"], rows[0]["message"]) == ("FooTest.***", "expected ***")
    assert TOKEN not in json.dumps(done.run_json)
    # The task's own files are its own affair.
    assert TOKEN in done.file("container/outputs/report.xml").read_text()


@pytest.mark.parametrize("leaves", ["report.xml", "nothing"])
@pytest.mark.parametrize("successor", ["adopts", "finishes"])
async def test_a_process_that_dies_at_the_verdict_leaves_it_to_the_next_which_comes_to_the_same(
    tmp_path: Path, outside_a_run: None, successor: str, leaves: str
) -> None:
    about = Run(str(uuid4()), attempt=1, worker="test", now=datetime.now(UTC))
    workspace = Workspace(tmp_path, about.job_id)
    workspace.create("container")
    outputs = [{"path": leaves, "required": True}, {"path": "*.xml", "type": "junit"}]
    spec = compiled(shell(FAILING, outputs=outputs), workspace.mount, about)
    verdicts: list[Outcome] = []

    async def collects(outcome: Outcome) -> Outcome:
        verdicts.append(verdict_on(outcome, collected(workspace, spec, Masker())))
        return verdicts[-1]

    async def dies(outcome: Outcome) -> Outcome:
        await collects(outcome)
        raise asyncio.CancelledError

    async with DockerEngine() as engine:
        with pytest.raises(asyncio.CancelledError):
            await run(engine, spec, Nowhere(), RunOptions(collect=dies))
        assert await engine.find(spec), "the next process finds it"
        if successor == "adopts":
            options = RunOptions(adopt=True, collect=collects)
            told = await run(engine, spec, Nowhere(), options)
        else:
            prepared = Prepared(workspace, spec, None, None, None, RetryRules(0, 0, {}), 0.1)
            attempt = Attempt(prepared, datetime.now(UTC))
            told = await finish(engine, attempt, Nowhere(), CANCELED, collects)
    assert left_on_engine(about.job_id) == []
    first, second = verdicts
    assert second.results == first.results
    assert (told.name, told.error) == (first.name, first.error) == (second.name, second.error)
    expected = "succeeded" if leaves == "report.xml" else "failed"
    assert (told.name, told.exit_code) == (expected, 0)
    assert [path.name for path in (workspace.artifacts / "container" / "outputs").iterdir()] == [
        "report.xml"
    ]


@pytest.fixture
def left(tmp_path: Path) -> tuple[AttemptStore, Prepared]:
    """An attempt whose container is to exit 3 and leave a file, in an attempt store."""
    about = Run(str(uuid4()), attempt=1, worker="test", now=datetime.now(UTC))
    workspace = Workspace(tmp_path, about.job_id)
    workspace.create("container")
    command = shell("touch a.zip; exit 3", outputs=[{"path": "a.zip"}])
    spec = compiled(command, workspace.mount, about)
    store = AttemptStore(tmp_path, about.job_id)
    store.note_taken()
    return store, Prepared(workspace, spec, None, None, None, RetryRules(0, 0, {}), 0.1)


async def executed(store: AttemptStore, prepared: Prepared) -> Outcome:
    async with DockerEngine() as engine:
        secret = Masker([TOKEN])
        job = Job(store, logging.getLogger("test"))
        collect = partial(collect_results, engine, job, prepared, secret)
        outcome = await run(engine, prepared.spec, Nowhere(), RunOptions(collect=collect))
    assert left_on_engine(store.job_id) == []
    return outcome


async def test_a_look_that_breaks_takes_nothing_of_what_is_known_of_the_end(
    left: tuple[AttemptStore, Prepared],
    outside_a_run: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def breaks(*_: object) -> Results:
        raise RuntimeError(f"nobody thought of {TOKEN}")

    monkeypatch.setattr("flows.runtime.collect.collected", breaks)
    outcome = await executed(*left)
    assert (outcome.name, outcome.exit_code) == ("failed", 3)
    assert outcome.cleanup_error == (
        "its outputs and test reports could not all be looked at (RuntimeError: nobody thought of "
        "***)"
    )
    assert "in breaks" in caplog.text
    assert TOKEN not in caplog.text


async def test_what_two_processes_died_over_is_left_alone_by_the_third(
    left: tuple[AttemptStore, Prepared], outside_a_run: None
) -> None:
    store, prepared = left
    assert [store.note_look(1), store.note_look(1)] == [1, 2]
    outcome = await executed(store, prepared)
    assert (outcome.name, outcome.exit_code) == ("failed", 3)
    assert outcome.cleanup_error == (
        "its outputs and test reports were left alone: 2 processes ended while they looked at them"
    )
    assert not (prepared.workspace.artifacts / "container" / "outputs").exists()
    store.forget()
    assert [*(prepared.workspace.root / ".runs").glob(f"{store.job_id}*")] == []


async def test_what_one_process_died_over_is_looked_at_by_the_next(
    left: tuple[AttemptStore, Prepared], outside_a_run: None
) -> None:
    store, prepared = left
    store.note_look(1)
    outcome = await executed(store, prepared)
    assert outcome.cleanup_error is None
    assert (prepared.workspace.artifacts / "container" / "outputs" / "a.zip").exists()


async def test_what_was_committed_counts_only_where_the_command_makes_it_anew(
    tmp_path: Path, runner: Runner
) -> None:
    origin = tmp_path / "team" / "game.git"
    for name in ("dist/old.zip", "dist/new.zip", "fixture.xml"):
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        (origin / name).write_text('<testsuite><testcase name="committed"/></testsuite>')
    commit_all(origin, "Write")
    outputs = [
        {"path": "dist/old.zip", "required": True},
        {"path": "dist/new.zip"},
        {"path": "*.xml", "type": "junit"},
    ]
    with git_daemon(tmp_path) as address:
        task = shell("echo x > dist/new.zip", outputs=outputs)
        done = await runner(task | {"repository": f"{address}/team/game.git"})
    assert done.message.startswith(
        "exited 0 but left no file for the required output dist/old.zip: repo/dist/old.zip is "
        "there since before the command began"
    )
    told = [(each["collected"], each["rejected"]) for each in done.run_json["outputs"]]
    assert told == [(0, 1), (1, 0), (0, 1)]
    assert done.run_json["tests"]["total"] == 0
