"""`container-task status`, `logs` and `open`: what is known of a run that was submitted."""

import json
import os
import sys
import webbrowser
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort
from rich.markdown import Markdown
from rich.text import Text

from flows.cli.console import Output
from flows.cli.exit_status import ExitStatus
from flows.cli.find import find_run
from flows.cli.follow import RunLog
from flows.cli.follow import told as tell_record
from flows.cli.outcomes import outcome_name, summary
from flows.cli.prefect_api import connected, run_url
from flows.cli.submit import watched
from flows.outcome import OutcomeName
from flows.report.names import METADATA_KEY, REPORT_KEY
from flows.text import shown_lines


def told(output: Output, name: str) -> int:
    """How the run stands or ended: its state, and the report that it made of itself."""
    with connected() as client:
        run = find_run(client, name)
        report, metadata = _artifact(client, run, REPORT_KEY), metadata_of(client, run)
    if output.as_json:
        output.document(_facts(run, report, metadata))
        return ExitStatus.SUCCEEDED
    output.render(_head(run))
    if report is None:
        return ExitStatus.SUCCEEDED
    output.line()
    if output.is_terminal:
        output.render(Markdown(shown_lines(report), hyperlinks=False))
    else:
        output.line(shown_lines(report.rstrip("\n")))
    return ExitStatus.SUCCEEDED


def logged(output: Output, name: str, *, follow: bool = False) -> int:
    """Print the log, and with `follow` what comes until the run is over."""
    with connected() as client:
        run = find_run(client, name)
        if follow:
            return watched(client, output, run)
        for record in RunLog(client, run.id).news():
            tell_record(output, record)
    return ExitStatus.SUCCEEDED


def opened(output: Output, name: str, *, browse: bool = True) -> int:
    """Print the address of the run's page, and start a browser where a person would see it."""
    with connected() as client:
        run = find_run(client, name)
    address = run_url(run.id)
    if output.as_json:
        output.document({"id": str(run.id), "url": address})
        return ExitStatus.SUCCEEDED
    output.line(address)
    if browse and output.is_terminal and _has_screen() and not webbrowser.open(address):
        output.say("No browser could be started: open the address in one.")
    return ExitStatus.SUCCEEDED


def metadata_of(client: SyncPrefectClient, run: FlowRun) -> dict[str, str]:
    """`run.json` of the newest attempt, without its lists; empty where there is none."""
    table = _artifact(client, run, METADATA_KEY)
    rows = json.loads(table) if table else []
    return {str(row["key"]): str(row["value"]) for row in rows}


def _artifact(client: SyncPrefectClient, run: FlowRun, key: str) -> str | None:
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]), key=ArtifactFilterKey(any_=[key])
        ),
        sort=ArtifactSort.CREATED_DESC,
        limit=1,
    )
    return str(found[0].data) if found else None


def _facts(run: FlowRun, report: str | None, metadata: dict[str, str]) -> dict[str, Any]:
    state = run.state
    return {
        "id": str(run.id),
        "name": run.name,
        "url": run_url(run.id),
        "outcome": outcome_name(run),
        "state": {"type": state.type.value, "name": state.name, "message": state.message}
        if state
        else None,
        "createdAt": _time(run.created),
        "startedAt": _time(run.start_time),
        "finishedAt": _time(run.end_time),
        "tags": run.tags,
        "starts": run.run_count,
        "run": metadata,
        "report": report,
    }


def _head(run: FlowRun) -> Text:
    outcome = outcome_name(run)
    colour = {None: "yellow", OutcomeName.SUCCEEDED: "green"}.get(outcome, "red")
    rows = [
        ("Outcome" if outcome else "State", summary(run)),
        ("Run", str(run.id)),
        ("Name", run.name),
        ("Submitted", _time(run.created)),
        ("Started", _time(run.start_time)),
        ("Finished", _time(run.end_time)),
        ("Address", run_url(run.id)),
    ]
    lines = [
        Text.assemble((f"{name:<11}", "bold"), (shown_lines(value), colour if number == 0 else ""))
        for number, (name, value) in enumerate(rows)
        if value is not None
    ]
    return Text("\n").join(lines)


def _time(moment: Any) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None


def _has_screen() -> bool:
    return sys.platform == "darwin" or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
