"""The verdict on a container that has stopped, by what it left: its outputs and its test reports.

Done again, `collected` and `verdict_on` come to the same, as they do after a crash. A report that
cannot be read is named, and the others count.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from flows.exit_code import advice, ending
from flows.masking import Masker
from flows.outcome import FailureClass, Outcome, OutcomeName, StoppedBy
from flows.outputs.collect import collect
from flows.outputs.globs import Parts
from flows.outputs.junit import TEXT_LENGTH, Budget, ReportUnreadable, read_report
from flows.outputs.manifest import pattern_of
from flows.outputs.upload_plan import printable
from flows.results import (
    MAX_NAMED,
    MAX_ROWS,
    REASONS,
    Case,
    CaseResult,
    OutputResult,
    ReportedTests,
    Results,
    UnreadableReport,
)
from flows.spec import ContainerSpec
from flows.text import one_line
from flows.workspace.folder import Workspace
from flows.workspace.tree import Bounds, TooMuch, Tree, is_there, open_file, walk

_NAMED = 3
_NAME_LENGTH = 80
MAX_REPORTS = 5_000
MAX_REPORT_BYTES = 64 * 1024**2
_MAX_BYTES = 256 * 1024**2
# Some three seconds of reading.
_MAX_ELEMENTS = 300_000
_MAX_PATH_BYTES = 4_096
# For all of it. Nobody can end the work from outside, so it ends by itself.
_SECONDS = 20.0
_CASE_NAME_LENGTH = 160
_MESSAGE_LENGTH = 240
_ORDER: tuple[CaseResult, ...] = ("failed", "error", "skipped", "passed")


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


def reported_tests(
    workspace: Workspace, spec: ContainerSpec, declared: Iterable[Parts], masker: Masker | None
) -> ReportedTests | None:
    """What the reports say; None where there is none and nobody expects one.

    `declared` are the paths of outputs below `artifacts/`. Without a `masker` no text is told.
    """
    folder = (*spec.artifacts_subdir.split("/"), "test-results")
    artifacts = Tree(workspace.folder, ("artifacts",))
    has_folder = is_there(Tree(workspace.folder, ("artifacts", *folder)))
    if not has_folder and not any(output.type == "junit" for output in spec.outputs):
        return None
    bounds = Bounds(100_000, time.monotonic() + _SECONDS)
    budget, total = Budget(_MAX_BYTES, _MAX_ELEMENTS, bounds.until), _Total()
    paths = set(declared)
    if has_folder:
        paths |= _in_folder(workspace, folder, bounds, total)
    for number, path in enumerate(sorted(paths)):
        try:
            if number >= MAX_REPORTS:
                raise ReportUnreadable(f"there are more than {MAX_REPORTS:,} reports")
            budget.require_time()
            total.read(_read_one(artifacts, path, budget))
        except ReportUnreadable as error:
            total.note_unreadable(path, str(error))
    return total.result(masker)


def _in_folder(workspace: Workspace, folder: Parts, bounds: Bounds, total: "_Total") -> set[Parts]:
    """Some more than are read at most; the rest, and what cannot be had, is noted in `total`."""
    found: set[Parts] = set()
    try:
        for thing in walk(Tree(workspace.folder, ("artifacts", *folder)), bounds=bounds):
            if thing.kind != "file" or not thing.parts[-1].lower().endswith(".xml"):
                continue
            path = (*folder, *thing.parts)
            if len(os.fsencode("/".join(path))) > _MAX_PATH_BYTES:
                total.note_unreadable(path, f"its path has more than {_MAX_PATH_BYTES:,} bytes")
            elif len(found) > MAX_REPORTS:
                total.note_unreadable(path, f"there are more than {MAX_REPORTS:,} reports")
            else:
                found.add(path)
    except TooMuch as bound:
        total.note_unreadable(folder, f"it is a folder which {bound}")
    return found


def _read_one(artifacts: Tree, path: Parts, budget: Budget) -> "_Tally":
    tally = _Tally()
    try:
        with open(open_file(artifacts, path), "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_REPORT_BYTES:
                raise ReportUnreadable(f"it is larger than {MAX_REPORT_BYTES // 1024**2} MiB")
            read_report(file, budget, tally.add)
    except OSError as error:
        raise ReportUnreadable(f"it cannot be opened ({error.strerror or error})") from None
    return tally


@dataclass(slots=True)
class _Tally:
    """Counts of results, and the first cases of each."""

    counts: Counter[CaseResult] = field(default_factory=Counter)
    flaky: int = 0
    cases: dict[CaseResult, list[Case]] = field(default_factory=dict)

    def add(self, case: Case) -> None:
        self.counts[case.result] += 1
        self.flaky += case.flaky
        kept = self.cases.setdefault(case.result, [])
        if len(kept) < MAX_ROWS:
            kept.append(case)


@dataclass(slots=True)
class _Total(_Tally):
    """Of all reports; one counts whole or not at all."""

    files: int = 0
    missed: int = 0
    named: list[UnreadableReport] = field(default_factory=list)

    def read(self, report: _Tally) -> None:
        self.files += 1
        self.counts += report.counts
        self.flaky += report.flaky
        for result, cases in report.cases.items():
            kept = self.cases.setdefault(result, [])
            kept += cases[: MAX_ROWS - len(kept)]

    def note_unreadable(self, path: Parts, reason: str) -> None:
        self.missed += 1
        if len(self.named) < MAX_NAMED:
            self.named.append(UnreadableReport(printable(path), reason))

    def result(self, masker: Masker | None) -> ReportedTests:
        """For people: failures first, and nothing that is secret."""
        rows = [case for result in _ORDER for case in self.cases.get(result, ())]
        return ReportedTests(
            failed=self.counts["failed"],
            errors=self.counts["error"],
            skipped=self.counts["skipped"],
            passed=self.counts["passed"],
            flaky=self.flaky,
            files=self.files,
            unreadable_files=self.missed,
            unreadable=tuple(_masked_report(each, masker) for each in self.named) if masker else (),
            rows=tuple(_masked_case(case, masker) for case in rows[:MAX_ROWS]) if masker else (),
        )


def _masked_case(case: Case, masker: Masker) -> Case:
    return replace(
        case,
        suite=masked_line(case.suite, masker, _CASE_NAME_LENGTH),
        name=masked_line(case.name, masker, _CASE_NAME_LENGTH),
        message=masked_line(case.message, masker, _MESSAGE_LENGTH),
    )


def _masked_report(report: UnreadableReport, masker: Masker) -> UnreadableReport:
    shown = (masked_line(text, masker, _MESSAGE_LENGTH) for text in (report.path, report.reason))
    return UnreadableReport(*shown)


def masked_line(text: str, masker: Masker, length: int) -> str:
    """On one line, masked before it is cut, so that no half of a secret is left."""
    stream = masker.stream()
    masked = stream.feed(text.encode(errors="surrogatepass"))
    if len(text) < TEXT_LENGTH:
        # What was cut may break off within a secret; its beginning stays held back.
        masked += stream.end()
    return one_line(masked.decode(errors="replace"), length)
