"""What the report says of a task's tests and of what it left."""

from dataclasses import replace

import pytest

from flows.report import page as report
from flows.results import Case, OutputResult, ReportedTests, Results, UnreadableReport
from tests.test_report import HOSTILE, LOG, OUTCOMES, UNSEEN, Page, page, reported, terminal

FAILURES = (
    Case("org.example.FooTest", "test_bar", "failed", 0.1, "expected 4"),
    Case("org.example.FooTest", "test_baz", "error", 0.1, "boom"),
)


def shown(results: Results) -> Page:
    return page(report.markdown(reported(replace(OUTCOMES["failed"], results=results)), LOG))


def test_the_tests_that_failed_stand_below_the_outcome_by_name() -> None:
    tests = ReportedTests(passed=408, failed=1, errors=1, skipped=2, files=3, rows=FAILURES)
    seen = shown(Results(tests=tests))
    assert seen.text.index("Tests (412)") < seen.text.index("Stages")
    assert "408 passed, 1 failed, 1 broke off, 2 skipped." in seen.text
    assert seen.points[:2] == [
        "FooTest.test_bar: expected 4",
        "FooTest.test_baz: boom",
    ]
    assert "container-run-tests has all of them." in seen.text


def test_failures_that_are_not_named_are_counted() -> None:
    seen = shown(Results(tests=ReportedTests(failed=1_500, files=1, rows=FAILURES)))
    assert "and 1,498 more; container-run-tests has all" in seen.text


def test_a_test_report_that_could_not_be_read_is_told() -> None:
    unread = UnreadableReport("container/test-results/a.xml", "it is not well-formed")
    tests = ReportedTests(passed=1, files=1, unreadable_files=1, unreadable=(unread,))
    seen = shown(Results(tests=tests))
    assert f"The report {unread.path} could not be read: it is not well-formed." in seen.text


@pytest.mark.parametrize("tests", [None, ReportedTests()])
def test_without_test_reports_nothing_is_said_of_tests(tests: ReportedTests | None) -> None:
    assert "Tests" not in shown(Results(tests=tests)).text


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (OutputResult("out/*.zip", True, "file"), "missing, and required"),
        (OutputResult("out/*.zip", False, "file"), "missing"),
        (OutputResult("out/*.zip", False, "file", rejected=2), "missing, 2 rejected"),
        (OutputResult("out/*.zip", True, "file", 1, 2048), "1 file, 2 KiB"),
        (
            OutputResult("out/*.zip", True, "file", 1_200, 5 * 2**30, 3),
            "1,200 files, 5 GiB, 3 rejected",
        ),
    ],
)
def test_each_output_has_a_line(output: OutputResult, line: str) -> None:
    assert shown(Results(outputs=(output,))).points[0] == f"out/*.zip: {line}"


@pytest.mark.parametrize("text", [*HOSTILE, UNSEEN])
def test_hostile_names_of_tests_and_outputs_stay_text(text: str) -> None:
    tests = ReportedTests(
        failed=1,
        files=1,
        unreadable_files=1,
        rows=(Case("", text, "failed", message=text),),
        unreadable=(UnreadableReport(text, text),),
    )
    results = Results((OutputResult(text, True, "file"),), tests=tests)
    text_of_report = report.markdown(reported(replace(OUTCOMES["failed"], results=results)), LOG)
    assert not [char for char in text_of_report if not char.isprintable() and char != "\n"]
    seen = page(text_of_report)
    assert set(seen.tags) <= {
        "h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "code", "pre",
        "strong",
    }  # fmt: skip
    assert [seen.tags.count(tag) for tag in ("h1", "h2", "strong")] == [1, 8, 1]
    assert terminal(text_of_report)
