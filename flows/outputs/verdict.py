"""The verdict on a container that has stopped, by what it left: its outputs and its test reports.

Done again, `collected` and `verdict_on` come to the same, as they do after a crash.
"""

from collections.abc import Sequence
from dataclasses import replace

from flows.exit_code import advice, ending
from flows.masking import Masker
from flows.outcome import FailureClass, Outcome, OutcomeName, StoppedBy
from flows.outputs.collect import collect
from flows.outputs.junit_summary import reported_tests
from flows.outputs.manifest import pattern_of
from flows.results import REASONS, OutputResult, ReportedTests, Results
from flows.spec import ContainerSpec
from flows.text import one_line
from flows.workspace.folder import Workspace

_NAMED = 3
_NAME_LENGTH = 80


def collected(
    workspace: Workspace, spec: ContainerSpec, masker: Masker | None, ready_ns: int | None = None
) -> Results:
    """Keep the outputs of a container that has stopped, and read its test reports.

    `masker` and `ready_ns` are as for `collect`. What goes wrong is in the `error` of the results.
    """
    found = collect(workspace, spec, masker, ready_ns)
    tests, error = None, found.error
    try:
        tests = reported_tests(workspace, spec, found.reports, masker)
    except OSError as problem:
        error = error or f"the test reports could not be read: {problem.strerror or problem}"
    return Results(found.outputs, found.rows, tests, error)


def uncollected(spec: ContainerSpec, masker: Masker | None, error: str) -> Results:
    """What is known where nobody has looked; `error` is one sentence on why."""
    outputs = (
        OutputResult(pattern_of(each, masker), each.required, each.type) for each in spec.outputs
    )
    return Results(tuple(outputs), error=error)


def verdict_on(outcome: Outcome, results: Results) -> Outcome:
    """The outcome, failed by a required output that is missing, or explained by failed tests."""
    outcome = replace(
        outcome, results=results, cleanup_error=outcome.cleanup_error or results.error
    )
    if outcome.name is OutcomeName.SUCCEEDED:
        missing = [each for each in results.outputs if each.required and each.missing]
        if not missing:
            return outcome
        return replace(
            outcome,
            name=OutcomeName.FAILED,
            failure_class=FailureClass.OUTPUT_MISSING,
            error=_missing_sentence(missing, results),
        )
    ended_itself = outcome.stopped_by is StoppedBy.CONTAINER
    if outcome.failure_class is FailureClass.EXIT_CODE and ended_itself and results.tests:
        return replace(outcome, error=_tests_sentence(outcome.exit_code, results.tests))
    return outcome


def failed_tests(tests: ReportedTests) -> str:
    """`3 of 412 tests failed: FooTest.test_bar, FooTest.test_baz, …`."""
    counted = f"{tests.not_passed:,} of {_counted(tests.total)} failed"
    names = [one_line(case.short_name, _NAME_LENGTH) for case in tests.failures[:_NAMED]]
    if not names:
        return counted
    more = ", …" if tests.not_passed > len(names) else ""
    return f"{counted}: {', '.join(names)}{more}"


def passed_tests(tests: ReportedTests) -> str:
    """`all 412 tests passed`, or how many of them did."""
    ran = tests.total - tests.skipped
    if not tests.skipped:
        return f"all {_counted(tests.total)} passed" if tests.total > 1 else "its one test passed"
    return f"{ran:,} of {_counted(tests.total)} passed, {tests.skipped:,} skipped"


def _counted(number: int) -> str:
    return f"{number:,} test" if number == 1 else f"{number:,} tests"


def _tests_sentence(exit_code: int | None, tests: ReportedTests) -> str:
    end = ending(exit_code)
    if tests.not_passed:
        return f"{failed_tests(tests)}; it {end}: the artifact container-run-tests says why"
    unreadable = _unreadable_clause(tests)
    if tests.total:
        return f"{end}, though {passed_tests(tests)}{unreadable}: {advice(exit_code)}"
    if unreadable:
        return f"{end}{unreadable}: {advice(exit_code)}"
    if tests.files:
        return f"{end}, and its test reports name no test: {advice(exit_code)}"
    return f"{end}, before it wrote a test report: {advice(exit_code)}"


def _unreadable_clause(tests: ReportedTests) -> str:
    if not tests.unreadable_files:
        return ""
    more = f" and {tests.unreadable_files - 1:,} more" if tests.unreadable_files > 1 else ""
    if not tests.unreadable:
        return f", and {tests.unreadable_files:,} of its test reports cannot be read"
    first = tests.unreadable[0]
    return f", and its test report {first.path}{more} cannot be read ({first.reason})"


def _missing_sentence(missing: Sequence[OutputResult], results: Results) -> str:
    names = ", ".join(one_line(each.path, _NAME_LENGTH) for each in missing[:_NAMED])
    outputs = "output" if len(missing) == 1 else f"{len(missing)} outputs"
    more = ", …" if len(missing) > _NAMED else ""
    sentence = f"exited 0 but left no file for the required {outputs} {names}{more}"
    paths = {each.path for each in missing}
    refused = next((row for row in results.rows if row.reason and row.output in paths), None)
    if refused is not None and refused.reason is not None:
        return f"{sentence}: {one_line(refused.path, 120)} is {REASONS[refused.reason]}"
    if results.error is not None:
        return f"{sentence} that was found: {results.error}"
    return (
        f"{sentence}: correct the path in task.container.outputs, which counts from the checkout, "
        "or have the command write it there"
    )
