"""docs/events.md says what is really emitted, and all of it."""

import re
import shlex
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.outcome import FAILURES, OUTCOMES, FailureClass, Outcome, OutcomeName
from flows.report import events
from flows.report.events import FINISHED, STARTED, SUMMARY, emit_finished, emit_started
from flows.report.names import state_name
from scripts.stack import ROOT, Stack, flow_run_id
from tests.finished import finished
from tests.runs import payload, until
from tests.weather import Weather

PAGE = (ROOT / "docs" / "events.md").read_text()


def section(heading: str) -> str:
    """From a heading to the next of the same rank or a higher one."""
    level = heading.split()[0]
    rest = PAGE.partition(f"{heading}\n")[2]
    assert rest, f"docs/events.md has no {heading}"
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str, head: str) -> set[str]:
    """What is in backticks in the first column of the table with this head."""
    table = text.partition(f"| {head} |")[2].partition("\n\n")[0]
    assert table, f"no table {head}"
    rows = [line for line in table.splitlines()[2:] if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def emitted(stack: Stack, resource: str) -> dict[str, Any]:
    """The events of a resource by name."""
    wanted = {"resource": {"id": [resource]}}
    found = stack.api("POST", "/events/filter", filter=wanted, limit=50).json()["events"]
    return {each["event"]: each for each in found}


def assert_documented(event: dict[str, Any]) -> None:
    text = section(f"### `{event['event']}`")
    assert set(event["payload"]) == first_cells(text, "key of the payload")
    assert set(event["resource"]) == first_cells(text, "label of the resource")
    (run,) = [each for each in event["related"] if each["prefect.resource.role"] == "flow-run"]
    assert run["prefect.resource.id"].startswith("prefect.flow-run.")


@pytest.mark.docker
@pytest.mark.server
def test_the_events_of_an_attempt_have_the_keys_and_labels_of_the_page(
    stack: Stack, weather: Weather
) -> None:
    run_id = weather.submit(payload("false"))
    weather.end(run_id)
    weather.assert_told_once(run_id)
    found = emitted(stack, f"moonmind.task.{run_id}")
    assert set(found) == {STARTED, FINISHED}
    for event in found.values():
        assert_documented(event)
        roles = {each["prefect.resource.role"] for each in event["related"]}
        assert roles >= {"flow-run", "flow", "tag"}
    labels = found[FINISHED]["resource"]
    assert labels["moonmind.outcome"] == found[FINISHED]["payload"]["outcome"] == "failed"
    assert labels["moonmind.failure_class"] == "exit-code"


def test_no_event_shows_a_secret_that_stands_in_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(events, "emit_event", lambda event, **rest: told.append((event, rest)))
    attempt = finished(tmp_path)
    spec = replace(attempt.prepared.spec, command=("echo", "a-secret"))
    prepared = replace(attempt.prepared, spec=spec, shown_command=("echo", "***"))
    attempt = replace(attempt, prepared=prepared)
    emit_started(attempt)
    emit_finished(attempt)
    assert [(event, rest["payload"]["command"]) for event, rest in told] == [
        (STARTED, "echo '***'"),
        (FINISHED, "echo '***'"),
    ]
    assert "a-secret" not in str(told)


@pytest.mark.server
def test_the_event_of_a_summary_has_the_keys_and_labels_of_the_page(stack: Stack) -> None:
    page = (ROOT / "docs" / "automations.md").read_text()
    (command,) = re.findall(r"^\$ prefect (deployment run failure-summary.*)$", page, re.MULTILINE)
    deployment, *parameters = shlex.split(command)[2:]
    assert parameters == ["--param", "days=30", "--watch"]
    assert_of_thirty_days(stack, stack.submit_to(deployment, {"days": 30}))


@pytest.mark.server
@pytest.mark.thorough
def test_the_command_of_the_page_makes_a_summary(stack: Stack) -> None:
    page = (ROOT / "docs" / "automations.md").read_text()
    (command,) = re.findall(r"^\$ prefect (deployment run failure-summary.*)$", page, re.MULTILINE)
    assert_of_thirty_days(stack, flow_run_id(stack.prefect(*shlex.split(command))))


def assert_of_thirty_days(stack: Stack, run_id: str) -> None:
    """The summary of this run, as its event tells it."""
    assert stack.await_final(run_id)["state_type"] == "COMPLETED"
    resource = f"moonmind.summary.{run_id}"
    until(lambda: emitted(stack, resource), what="the event")
    event = emitted(stack, resource)[SUMMARY]
    assert_documented(event)
    since, end = (datetime.fromisoformat(event["payload"][key]) for key in ("since", "until"))
    assert end - since == timedelta(days=30)


def test_every_outcome_has_its_row_with_its_state_and_every_class_is_named() -> None:
    rows = {
        cells[1].strip(" `"): cells
        for cells in (
            line.split("|") for line in section("## Outcomes, states and causes").splitlines()
        )
        if len(cells) == 6 and "`" in cells[1]
    }
    assert set(rows) == {str(outcome) for outcome in OutcomeName}
    for outcome in OutcomeName:
        named = state_name(Outcome(outcome)) or rows[outcome][3].strip().capitalize()
        assert rows[outcome][2].strip() == named
        assert rows[outcome][3].strip() == OUTCOMES[outcome].state_type
    classes = {
        (outcome, failure_class)
        for outcome, cells in rows.items()
        for failure_class in re.findall(r"`([^`]+)`", cells[4])
    }
    assert classes == {(str(row.outcome), str(row.failure_class)) for row in FAILURES}
    assert {row.failure_class for row in FAILURES} == set(FailureClass)
