"""`container-task submit`, `status`, `logs` and `open`: a run created, and looked at."""

import os
import signal
import sys
import webbrowser
from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from rich.markdown import Markdown
from rich.text import Text

from flows.cli.check import checked_payload, read_json
from flows.cli.console import CommandError, Console, ExitStatus
from flows.cli.follow import RunLog, show_record, watch
from flows.cli.prefect_api import (
    connected,
    find_run,
    metadata_of,
    newest_artifact,
    outcome_name,
    run_url,
    summary,
)
from flows.outcome import OutcomeName
from flows.report.names import REPORT_KEY, run_name
from flows.text import shown_lines


@dataclass(frozen=True, slots=True)
class Submission:
    """What is submitted, to which deployment, and whether it is watched."""

    payload: str
    deployment: str
    idempotency_key: str | None = None
    tags: tuple[str, ...] = ()
    watch: bool = False
    cancel_on_interrupt: bool = False


def submit_payload(console: Console, asked: Submission) -> int:
    """Start the run, tell of it, and watch it if asked."""
    raw = read_json(asked.payload)
    checked_payload(console, raw)
    if asked.watch and asked.cancel_on_interrupt:
        # Even where SIGINT is ignored, as a shell's background jobs inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with connected() as client:
        run = _create_run(client, asked, raw)
        facts = {"id": str(run.id), "name": run.name, "url": run_url(run.id)}
        if asked.watch:
            console.record("submitted", **facts)
            if not console.as_json:
                console.say(f"Run {run.id}, {run.name}\n{run_url(run.id)}")
            return watch(client, console, run, cancel_on_interrupt=asked.cancel_on_interrupt)
    if console.as_json:
        console.document(facts)
    console.line(f"Run      {run.id}\nName     {run.name}\nAddress  {run_url(run.id)}")
    return ExitStatus.SUCCEEDED


def _create_run(client: SyncPrefectClient, asked: Submission, raw: object) -> FlowRun:
    unknown = CommandError(
        f"there is no deployment {asked.deployment!r} on this server: register it with prefect "
        "deploy --all, or name another one with --deployment",
        ExitStatus.UNKNOWN,
    )
    if asked.deployment.count("/") != 1:
        raise unknown
    try:
        deployment = client.read_deployment_by_name(asked.deployment)
    except ObjectNotFound:
        raise unknown from None
    return client.create_flow_run_from_deployment(
        deployment.id,
        parameters={"payload": raw},
        name=run_name(raw),
        tags=[*deployment.tags, *asked.tags],
        idempotency_key=asked.idempotency_key,
    )


def show_status(console: Console, name: str) -> int:
    """How the run stands or ended: its state, and the report that it made of itself."""
    with connected() as client:
        run = find_run(client, name)
        made, metadata = newest_artifact(client, run, REPORT_KEY), metadata_of(client, run)
    report = str(made.data) if made else None
    if console.as_json:
        console.document(_run_document(run, report, metadata))
        return ExitStatus.SUCCEEDED
    console.render(_head(run))
    if report is not None:
        console.line()
        if console.is_terminal:
            console.render(Markdown(shown_lines(report), hyperlinks=False))
        else:
            console.line(shown_lines(report.rstrip("\n")))
    return ExitStatus.SUCCEEDED


def show_logs(console: Console, name: str, *, follow: bool = False) -> int:
    """Print the log, and with `follow` what comes until the run is over."""
    with connected() as client:
        run = find_run(client, name)
        if follow:
            return watch(client, console, run)
        for record in RunLog(client.read_logs, run.id).news():
            show_record(console, record)
    return ExitStatus.SUCCEEDED


def open_page(console: Console, name: str, *, browse: bool = True) -> int:
    """Print the address of the run's page, and start a browser where a person would see it."""
    with connected() as client:
        run = find_run(client, name)
    address = run_url(run.id)
    if console.as_json:
        console.document({"id": str(run.id), "url": address})
        return ExitStatus.SUCCEEDED
    console.line(address)
    if browse and console.is_terminal and _has_screen() and not webbrowser.open(address):
        console.say("No browser could be started: open the address in one.")
    return ExitStatus.SUCCEEDED


def _run_document(run: FlowRun, report: str | None, metadata: dict[str, str]) -> dict[str, Any]:
    state = run.state
    return {
        "id": str(run.id),
        "name": run.name,
        "url": run_url(run.id),
        "outcome": outcome_name(run),
        "state": {"type": state.type.value, "name": state.name, "message": state.message}
        if state
        else None,
        "createdAt": _iso(run.created),
        "startedAt": _iso(run.start_time),
        "finishedAt": _iso(run.end_time),
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
        ("Submitted", _iso(run.created)),
        ("Started", _iso(run.start_time)),
        ("Finished", _iso(run.end_time)),
        ("Address", run_url(run.id)),
    ]
    return Text("\n").join(
        Text.assemble((f"{name:<11}", "bold"), (shown_lines(value), colour if number == 0 else ""))
        for number, (name, value) in enumerate(rows)
        if value is not None
    )


def _iso(moment: Any) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None


def _has_screen() -> bool:
    return sys.platform == "darwin" or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
