"""The tables of the UI that show what a run left: its tests and its outputs. Pure."""

from flows.results import REASONS, Case, OutputResult, OutputRow, ReportedTests, Results
from flows.text import one_line

_LENGTH = 300
_MARKS = {"failed": "FAILED", "error": "ERROR", "skipped": "skipped", "passed": "passed"}

Row = dict[str, str]


def table_of_tests(tests: ReportedTests) -> list[Row]:
    """A row a test, failures first, then one for each report that cannot be read."""
    rows = [_case(case) for case in tests.rows]
    rows += [
        _test("unreadable report", "", each.path, "", each.reason) for each in tests.unreadable
    ]
    left_out = tests.total - len(tests.rows)
    if left_out > 0:
        rows.append(_test(f"and {left_out:,} more", "", "", "", "all are in the reports"))
    return rows


def table_of_outputs(results: Results) -> list[Row]:
    """A row a file, what is missing and rejected first."""
    required = {each.path for each in results.outputs if each.required}
    rows = [_output(row, is_required=row.output in required) for row in results.rows]
    left_out = sum(map(_things, results.outputs)) - len(results.rows)
    if left_out > 0:
        rows.append(_file(f"and {left_out:,} more", "", "", "all are in metadata/outputs.json"))
    return rows


def _things(output: OutputResult) -> int:
    return output.collected + output.rejected + output.missing


def _case(case: Case) -> Row:
    mark = _MARKS[case.result] + (" (flaky)" if case.flaky else "")
    seconds = "" if case.seconds is None else f"{case.seconds:.3f}"
    return _test(mark, case.suite, case.name, seconds, case.message)


def _test(result: str, suite: str, test: str, seconds: str, message: str) -> Row:
    return {
        "result": result, "suite": suite, "test": test, "seconds": seconds, "message": message,
    }  # fmt: skip


def _output(row: OutputRow, *, is_required: bool) -> Row:
    result = "missing, required" if row.result == "missing" and is_required else row.result
    reason = REASONS[row.reason] if row.reason else ""
    size = "" if row.size_bytes is None else str(row.size_bytes)
    return _file(result, row.output, row.path, reason, size, row.sha256 or "")


def _file(
    result: str, output: str, file: str, reason: str, size: str = "", sha256: str = ""
) -> Row:
    return {
        "result": result,
        "output": one_line(output, _LENGTH),
        "file": one_line(file, _LENGTH),
        "reason": reason,
        "bytes": size,
        "sha256": sha256,
    }
