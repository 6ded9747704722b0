"""What is said of a run by what it left: the outcome, its sentence, the tables and run.json."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from flows.engine.types import ContainerState
from flows.masking import Masker
from flows.outcome import FailureClass, Outcome, OutcomeName, StoppedBy, container_outcome
from flows.outputs.junit import TEXT_LENGTH, Budget, read_report
from flows.outputs.verdict import collected, masked_line, reported_tests, uncollected, verdict_on
from flows.report.artifacts import table_of_outputs, table_of_tests
from flows.report.names import stage_name, state_message
from flows.results import MAX_ROWS, Case, ReportedTests, Results
from flows.spec import ContainerSpec
from flows.workspace.folder import Workspace
from tests.runs import payload
from tests.specs import NOW, RUN, compiled

KNOWN = Masker(["s3cret-value"])


@pytest.fixture
def job(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path, RUN.job_id)
    workspace.create("container")
    return workspace


def spec(*outputs: dict[str, Any]) -> ContainerSpec:
    return compiled(payload("make", "check", outputs=list(outputs)))


def report(job: Workspace, inner: str, name: str = "a.xml") -> None:
    path = job.artifacts / "container" / "test-results" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'<testsuite name="s">{inner}</testsuite>')


def case(name: str, inner: str = "", suite: str = "org.FooTest") -> str:
    return f'<testcase classname="{suite}" name="{name}" time="0.5">{inner}</testcase>'


FAILS = '<failure message="expected 1"/>'


def ended(exit_code: int, stopped_by: StoppedBy = StoppedBy.CONTAINER) -> Outcome:
    state = ContainerState(False, exit_code, oom_killed=False, started_at=NOW, finished_at=NOW)
    return container_outcome(spec(), state, stopped_by)


def verdict(job: Workspace, exit_code: int, *outputs: dict[str, Any]) -> Outcome:
    return verdict_on(ended(exit_code), collected(job, spec(*outputs), KNOWN))


def told(job: Workspace, masker: Masker | None = KNOWN) -> ReportedTests:
    found = reported_tests(job, spec(), (), masker)
    assert found is not None
    return found


def read_cases(job: Workspace) -> list[Case]:
    cases: list[Case] = []
    with (job.artifacts / "container" / "test-results" / "a.xml").open("rb") as file:
        read_report(file, Budget(10**6, 1000), cases.append)
    return cases


def test_tests_that_failed_are_named_and_counted(job: Workspace) -> None:
    names = "".join(case(f"test_{number}") for number in range(409))
    report(job, names + "".join(case(f"test_bad{number}", FAILS) for number in range(3)))
    outcome = verdict(job, 1)
    assert (outcome.name, outcome.failure_class) == (OutcomeName.FAILED, FailureClass.EXIT_CODE)
    assert outcome.error == (
        "3 of 412 tests failed: FooTest.test_bad0, FooTest.test_bad1, FooTest.test_bad2; it exited "
        "1: the artifact container-run-tests says why"
    )


def test_of_many_tests_that_failed_the_first_are_named(job: Workspace) -> None:
    report(job, "".join(case(f"t{number}", FAILS) for number in range(200)))
    outcome = verdict(job, 1)
    assert outcome.error is not None
    assert outcome.error.startswith(
        "200 of 200 tests failed: FooTest.t0, FooTest.t1, FooTest.t2, …; it exited 1"
    )


def test_a_tool_that_crashed_before_its_report_is_no_test_that_failed(job: Workspace) -> None:
    (job.artifacts / "container" / "test-results").mkdir()
    assert verdict(job, 139).error == (
        "exited 139, ended by SIGSEGV, before it wrote a test report: the program used memory that "
        "is not its own; see the end of runner.log"
    )
    declared = verdict(job, 2, {"path": "out/*.xml", "type": "junit"})
    assert declared.error == ("exited 2, before it wrote a test report: see the end of runner.log")


def test_a_run_that_nobody_expects_a_report_of_keeps_its_sentence(job: Workspace) -> None:
    assert verdict(job, 2).error == ended(2).error == "exited 2: see the end of runner.log"


def test_a_run_that_failed_though_its_tests_passed_says_so(job: Workspace) -> None:
    report(job, case("a") + case("b") + case("c", "<skipped/>"))
    assert verdict(job, 2).error == (
        "exited 2, though 2 of 3 tests passed, 1 skipped: see the end of runner.log"
    )


def test_a_report_that_cannot_be_read_is_named_and_the_others_count(job: Workspace) -> None:
    report(job, case("a"))
    report(job, case("b", FAILS) + "</oops>", "b.xml")
    error = verdict(job, 2).error or ""
    assert error.startswith(
        "exited 2, though its one test passed, and its test report "
        "container/test-results/b.xml cannot be read (it is not well-formed XML"
    )
    (job.artifacts / "container" / "test-results" / "a.xml").unlink()
    assert (verdict(job, 2).error or "").startswith("exited 2, and its test report container/test-")


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (case("a") + case("b"), "exited 0, all 2 tests passed"),
        (case("a") + case("b", "<skipped/>"), "exited 0, 1 of 2 tests passed, 1 skipped"),
        (case("a"), "exited 0, its one test passed"),
        (case("a", FAILS), "exited 0, though 1 of 1 test failed: FooTest.a"),
        ("", "exited 0"),
    ],
)
def test_a_run_that_succeeded_says_how_many_tests_did(
    job: Workspace, inner: str, message: str
) -> None:
    report(job, inner)
    outcome = verdict(job, 0)
    assert outcome.name is OutcomeName.SUCCEEDED
    assert state_message(outcome) == message


@pytest.mark.parametrize(
    ("exit_code", "stopped_by"),
    [(143, StoppedBy.DEADLINE), (143, StoppedBy.CANCEL), (137, StoppedBy.OUTSIDE),
     (255, StoppedBy.ENGINE), (127, StoppedBy.CONTAINER)],
)  # fmt: skip
def test_an_end_that_has_another_cause_keeps_its_sentence(
    job: Workspace, exit_code: int, stopped_by: StoppedBy
) -> None:
    report(job, case("a", FAILS))
    before = ended(exit_code, stopped_by)
    after = verdict_on(before, collected(job, spec({"path": "no", "required": True}), KNOWN))
    assert (after.name, after.failure_class, after.error) == (
        before.name, before.failure_class, before.error,
    )  # fmt: skip
    assert after.results is not None
    assert after.results.tests is not None


def test_a_required_output_that_is_missing_fails_a_run_that_exited_0(job: Workspace) -> None:
    outcome = verdict(job, 0, {"path": "build/*.zip", "required": True}, {"path": "extra"})
    assert (outcome.name, outcome.failure_class) == ("failed", "output-missing")
    assert outcome.error == (
        "exited 0 but left no file for the required output build/*.zip: correct the path in "
        "task.container.outputs, which counts from the checkout, or have the command write it there"
    )
    assert (outcome.exit_code, stage_name(outcome)) == (0, "Output missing")


def test_a_required_output_that_was_rejected_is_missing_and_says_why(job: Workspace) -> None:
    (job.repo / "a.zip").symlink_to("b.zip")
    outcome = verdict(job, 0, {"path": "a.zip", "required": True})
    assert outcome.error == (
        "exited 0 but left no file for the required output a.zip: repo/a.zip is a link, and links "
        "are not followed: have the command leave the file itself"
    )


def test_an_output_that_is_not_required_changes_nothing(job: Workspace) -> None:
    outcome = verdict(job, 0, {"path": "build/*.zip"})
    assert (outcome.name, outcome.error) == (OutcomeName.SUCCEEDED, None)


def test_a_collection_that_failed_is_told_beside_the_outcome(job: Workspace) -> None:
    job.repo.rmdir()
    outcome = verdict(job, 0, {"path": "a"})
    assert outcome.name is OutcomeName.SUCCEEDED
    assert (
        outcome.cleanup_error == "outputs could not be sought in repo/: No such file or directory"
    )


def test_no_secret_and_no_markup_gets_out_of_a_report(job: Workspace) -> None:
    hostile = "a\u202eb&#10;s3cret-value | [x](y)"
    message = "x" * 4088 + "s3cret-value"
    report(job, case(hostile, f'<failure message="{message}"/>', suite="s3cret-value"))
    tests = told(job)
    (row,) = tests.rows
    assert row.name == "a\\u202eb *** | [x](y)"
    assert row.suite == "***"
    assert "s3cret" not in json.dumps(table_of_tests(tests))
    assert len(row.message) < 300


def test_without_the_secrets_tests_are_counted_and_not_named(job: Workspace) -> None:
    report(job, case("s3cret-value", FAILS))
    report(job, "</x>", "s3cret-value.xml")
    tests = told(job, masker=None)
    assert (tests.failed, tests.unreadable_files, tests.rows, tests.unreadable) == (1, 1, (), ())
    sentence = verdict_on(ended(1), Results(tests=tests)).error
    assert sentence == (
        "1 of 1 test failed; it exited 1: the artifact container-run-tests says why"
    )


def test_the_table_of_tests_has_failures_first_and_an_end(job: Workspace) -> None:
    report(job, "".join(case(f"ok{number}") for number in range(300)) + case("bad", FAILS))
    report(job, "no xml <", "z.xml")
    rows = table_of_tests(told(job))
    assert rows[0] == {
        "result": "FAILED",
        "test": "FooTest.bad",
        "message": "expected 1",
        "seconds": "0.500",
        "suite": "org.FooTest",
    }
    # The page shows the columns in this order, and cuts the last ones.
    assert [*rows[0]] == ["result", "test", "message", "seconds", "suite"]
    assert rows[MAX_ROWS]["test"].endswith("z.xml")
    assert rows[MAX_ROWS]["message"]
    assert [row["result"] for row in rows[1:MAX_ROWS]] == ["passed"] * (MAX_ROWS - 1)
    assert [row["result"] for row in rows[MAX_ROWS:]] == ["unreadable report", "and 201 more"]


def test_the_table_of_outputs_has_what_is_missing_first_and_an_end(job: Workspace) -> None:
    for number in range(120):
        (job.repo / f"{number:03}.txt").write_bytes(b"x")
    (job.repo / "link.txt").symlink_to("000.txt")
    given = spec({"path": "*.txt"}, {"path": "*.zip", "required": True}, {"path": "no"})
    rows = table_of_outputs(collected(job, given, KNOWN))
    assert [(row["result"], row["output"], row["file"]) for row in rows[:4]] == [
        ("missing, required", "*.zip", ""),
        ("missing", "no", ""),
        ("rejected", "*.txt", "repo/link.txt"),
        ("collected", "*.txt", "container/outputs/000.txt"),
    ]
    assert rows[2]["reason"].startswith("a link")
    assert (rows[3]["bytes"], len(rows[3]["sha256"])) == ("1", 12)
    assert [*rows[0]] == ["result", "output", "file", "bytes", "reason", "sha256"]
    assert (len(rows), rows[-1]["result"]) == (MAX_ROWS + 1, "and 23 more")


def test_reports_that_take_too_long_to_read_do_not_count(
    job: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(job, case("a"))
    monkeypatch.setattr("flows.outputs.verdict._SECONDS", -1.0)
    tests = told(job)
    assert (tests.files, tests.total) == (0, 0)
    assert [each.reason for each in tests.unreadable] == [
        "it is a folder which takes too long to look through"
    ]


def test_a_report_of_countless_tests_is_refused_soon(job: Workspace) -> None:
    report(job, '<testcase name="a"/>' * 1_000_000)
    began = time.process_time()
    (unreadable,) = told(job).unreadable
    assert unreadable.reason == "the reports have more elements together than are read of them"
    assert time.process_time() - began < 8


def test_a_report_under_a_path_that_is_too_long_is_named_shortly(job: Workspace) -> None:
    top = job.artifacts / "container" / "test-results"
    top.mkdir()
    folder = os.open(top, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("n" * 250, dir_fd=folder)
        below = os.open("n" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("a.xml", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    (unreadable,) = told(job).unreadable
    assert unreadable.reason == "its path has more than 4,096 bytes"
    assert len(unreadable.path) < 300
    job.remove()


def test_no_beginning_of_a_secret_is_left_where_a_text_is_cut(job: Workspace) -> None:
    text = " " * 10 + "x" * (TEXT_LENGTH - 14) + "s3cret-value" + "y" * 50
    report(job, case("a", f"<failure>{text}</failure>"))
    (case_,) = read_cases(job)
    assert "s3cr" not in masked_line(case_.message, KNOWN, 2 * TEXT_LENGTH)


def test_what_nobody_could_look_for_is_not_there(job: Workspace) -> None:
    given = spec({"path": "a.zip", "required": True}, {"path": "b.zip"})
    outcome = verdict_on(ended(0), uncollected(given, KNOWN, "two processes ended"))
    assert (outcome.name, outcome.failure_class) == ("failed", "output-missing")
    assert outcome.error == (
        "exited 0 but left no file for the required output a.zip that was found: two processes "
        "ended"
    )
    assert outcome.cleanup_error == "two processes ended"
    kept = verdict_on(ended(0), uncollected(spec({"path": "b.zip"}), KNOWN, "two processes ended"))
    assert kept.name == "succeeded"
