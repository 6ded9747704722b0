"""The tables of the UI that show what a run left: its tests and its outputs. Pure.

Prefect's page cuts a table at its right edge, so what tells most stands left and is short: the
whole of it is in the reports, in `run.json` and in `metadata/outputs.json`.
"""

from flows.results import REASONS, Case, OutputResult, OutputRow, ReportedTests, Results
from flows.text import one_line

_NAME_LENGTH = 60
_PATH_LENGTH = 60
_MESSAGE_LENGTH = 100
_SHA256_LENGTH = 12
_MARKS = {"failed": "FAILED", "error": "ERROR", "skipped": "skipped", "passed": "passed"}

Row = dict[str, str]


def table_of_tests(tests: ReportedTests) -> list[Row]:
    """A row a test, failures first, then one for each report that cannot be read."""
    rows = [_case(case) for case in tests.rows]
    rows += [_test("unreadable report", each.path, each.reason) for each in tests.unreadable]
    left_out = tests.total - len(tests.rows)
    if left_out > 0:
        rows.append(_test(f"and {left_out:,} more", "", "all are in the reports"))
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
    return _test(mark, case.short_name, case.message, seconds, case.suite)


def _test(result: str, test: str, message: str, seconds: str = "", suite: str = "") -> Row:
    return {
        "result": result,
        "test": one_line(test, _NAME_LENGTH),
        "message": one_line(message, _MESSAGE_LENGTH),
        "seconds": seconds,
        "suite": suite,
    }


def _output(row: OutputRow, *, is_required: bool) -> Row:
    result = "missing, required" if row.result == "missing" and is_required else row.result
    reason = REASONS[row.reason] if row.reason else ""
    size = "" if row.size_bytes is None else str(row.size_bytes)
    sha256 = (row.sha256 or "")[:_SHA256_LENGTH]
    return _file(result, row.output, row.path, reason, size, sha256)


def _file(
    result: str, output: str, file: str, reason: str, size: str = "", sha256: str = ""
) -> Row:
    return {
        "result": result,
        "output": one_line(output, _PATH_LENGTH),
        "file": one_line(file, _PATH_LENGTH),
        "bytes": size,
        "reason": reason,
        "sha256": sha256,
    }
