"""The Prefect artifacts of an attempt, but for the progress that is shown while it runs. Pure.

Tables are Markdown: of an artifact of the type `table`, Prefect's first UI renders each cell as
Markdown and HTML, and its second shows the same cell as text, so no cell reads alike in both. What
tells most stands left and is short: the whole of it is in the reports, in `run.json` and in
`metadata/outputs.json`. Descriptions are Markdown on one page and text on another: words of ours.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import Artifact

from flows.attempt import Attempt
from flows.outputs.upload_plan import file_address, link
from flows.report.names import (
    FILES_KEY,
    METADATA_KEY,
    OUTPUTS_KEY,
    REPORT_KEY,
    TESTS_KEY,
    USAGE_KEY,
)
from flows.report.run_json import RunReport
from flows.results import REASONS, ReportedTests, Results
from flows.text import code, escape, one_line, table

_NAME_LENGTH = 60
_PATH_LENGTH = 60
_MESSAGE_LENGTH = 100
_MARKS = {"failed": "FAILED", "error": "ERROR", "skipped": "skipped", "passed": "passed"}
_TABLE_WIDTH = 120
_NOT_IN_TABLE: dict[str, Any] = {
    **dict.fromkeys(("artifacts", "logs", "command", "docker_run", "outputs"), True),
    "tests": {"failures", "unreadable_reports"},
}
TableRow = dict[str, str]
_TEST_COLUMNS = ("result", "test", "message", "seconds", "suite")
_OUTPUT_COLUMNS = ("result", "output", "file", "bytes", "reason", "sha256")


def run_artifacts(
    facts: RunReport, report: str, picture: str | None, results: Results | None
) -> Iterator[ArtifactCreate]:
    """What shows how an attempt went. The page of a run shows them in no order: Prefect sorts
    them by ids that are random.

    `report` is Markdown, `picture` an SVG, `results` what the container left; None where there is
    none.
    """
    artifact = partial(_artifact, facts.job_id)
    about = f"How attempt {facts.attempt} ended: {facts.failure_class or facts.outcome}"
    yield artifact(REPORT_KEY, "markdown", about, report)
    if results is not None and results.tests is not None:
        about = "What the test reports say, failures first"
        yield artifact(TESTS_KEY, "markdown", about, _table(table_of_tests(results.tests)))
    if results is not None and results.outputs:
        about = "What the task was to leave, and what of it there is"
        yield artifact(OUTPUTS_KEY, "markdown", about, _table(table_of_outputs(results)))
    if picture is not None:
        # Within its own address, for whoever sees the page.
        address = f"data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()}"
        about = "Memory and CPU of the container over time, against their limits"
        yield artifact(USAGE_KEY, "image", about, address)
    about = f"Attempt {facts.attempt} in figures, as run.json has them"
    facts_of_it = metadata(facts)
    rows = [{"key": key, "value": value} for key, value in facts_of_it.items()]
    made = artifact(METADATA_KEY, "markdown", about, _table(rows))
    # For programs.
    yield made.model_copy(update={"metadata_": facts_of_it})


def files_artifact(attempt: Attempt) -> ArtifactCreate:
    """Where the files of a run are: a link to the storage, or their folder on the host."""
    spec, upload = attempt.prepared.spec, attempt.upload
    if upload is not None and upload.error is None:
        about = "Where the files of the run are; manifest.json lists them"
        # The first UI shows the text of a link as it stands in the Markdown.
        data = f"{code(upload.address)}: [open]({link(upload.address)})"
        path = f"{spec.artifacts_subdir}/metadata/outputs.json"
        if _has_manifest(attempt) and (manifest := file_address(upload.address, path)):
            data = f"{data}\n\nIts outputs: [outputs.json]({manifest})"
    else:
        about = "Where the files of the run are: on the host of its worker"
        data = code(str(attempt.prepared.workspace.artifacts))
    return _artifact(spec.job_id, FILES_KEY, "markdown", about, data)


def _has_manifest(attempt: Attempt) -> bool:
    """Whether the runner listed the outputs; what is in the list's place else is not its own."""
    executed = attempt.executed
    return bool(executed and executed.outcome.results and executed.outcome.results.rows)


def _table(rows: Sequence[TableRow]) -> str:
    """A table of Markdown; the first row has the names of all columns."""
    columns = list(rows[0]) if rows else []
    return table(columns, [[escape(row[column]) for column in columns] for row in rows])


def _artifact(job_id: str, key: str, kind: str, about: str, data: str) -> ArtifactCreate:
    owner = UUID(job_id)
    return ArtifactCreate(key=key, type=kind, description=about, data=data, flow_run_id=owner)


def table_of_tests(tests: ReportedTests) -> list[TableRow]:
    """A row a test, failures first, then one for each report that cannot be read."""
    rows = [
        _row(
            _TEST_COLUMNS,
            _MARKS[case.result] + (" (flaky)" if case.flaky else ""),
            one_line(case.short_name, _NAME_LENGTH),
            one_line(case.message, _MESSAGE_LENGTH),
            "" if case.seconds is None else f"{case.seconds:.3f}",
            case.suite,
        )
        for case in tests.rows
    ]
    for each in tests.unreadable:
        path, reason = one_line(each.path, _NAME_LENGTH), one_line(each.reason, _MESSAGE_LENGTH)
        rows.append(_row(_TEST_COLUMNS, "unreadable report", path, reason))
    if (left_out := tests.total - len(tests.rows)) > 0:
        rows.append(_row(_TEST_COLUMNS, f"and {left_out:,} more", message="all are in the reports"))
    return rows


def table_of_outputs(results: Results) -> list[TableRow]:
    """A row a file, what is missing and rejected first."""
    lacking = {("missing", each.path) for each in results.outputs if each.required}
    rows = [
        _row(
            _OUTPUT_COLUMNS,
            f"{row.result}, required" if (row.result, row.output) in lacking else row.result,
            one_line(row.output, _PATH_LENGTH),
            one_line(row.path, _PATH_LENGTH),
            "" if row.size_bytes is None else str(row.size_bytes),
            REASONS[row.reason] if row.reason else "",
            (row.sha256 or "")[:12],
        )
        for row in results.rows
    ]
    known = sum(each.collected + each.rejected + each.missing for each in results.outputs)
    if (left_out := known - len(results.rows)) > 0:
        more = f"and {left_out:,} more"
        rows.append(_row(_OUTPUT_COLUMNS, more, reason="all are in metadata/outputs.json"))
    return rows


def _row(columns: Sequence[str], *cells: str, **named: str) -> TableRow:
    """What is not given is blank."""
    return dict.fromkeys(columns, "") | dict(zip(columns, cells, strict=False)) | named


def metadata(report: RunReport) -> dict[str, str]:
    """`run.json` without what is long, by key; those of an object as `usage.cpuSeconds`. A sentence
    is cut at the width of the page."""
    sentences = ("error", "cleanup_error", "instructions")
    cut = {key: one_line(text, _TABLE_WIDTH) for key in sentences if (text := getattr(report, key))}
    plain = report.model_copy(update=cut).model_dump(
        mode="json", by_alias=True, exclude=_NOT_IN_TABLE
    )
    return dict(_cells(plain))


def recorded(made: Artifact) -> dict[str, str]:
    """The `metadata` of an attempt, from its artifact; empty for what is none of ours."""
    if made.metadata_:
        return made.metadata_
    try:
        # A table, as the version before made them.
        rows: Any = json.loads(made.data) if isinstance(made.data, str) else made.data
        return {str(row["key"]): str(row["value"]) for row in rows}
    except (LookupError, TypeError, ValueError):
        return {}


def _cells(plain: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in plain.items():
        match value:
            case dict():
                yield from _cells(value, f"{path}{key}.")
            case list():
                yield f"{path}{key}", ", ".join(map(str, value))
            case str() | None:
                yield f"{path}{key}", value or ""
            case _:
                yield f"{path}{key}", json.dumps(value)
