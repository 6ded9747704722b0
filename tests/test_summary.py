"""The summary of a week: what it counts, and that it shows a stranger's text as text."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import get_client
from prefect.client.schemas.objects import Artifact

from flows.outcome import OutcomeName
from flows.report.artifacts import recorded
from flows.report.summary import (
    AttemptFacts,
    Period,
    Summary,
    Unsuccessful,
    markdown,
    payload,
    sentence,
)
from flows.summary import look_back
from tests.runs import Runner, shell
from tests.weather import Weather

UNTIL = datetime(2026, 10, 12, 6, tzinfo=UTC)
WEEK = Period(UNTIL - timedelta(days=7), UNTIL)
FAILED = OutcomeName.FAILED


def attempt(
    job: str, number: int = 1, outcome: str = "failed", cause: str = "exit-code"
) -> AttemptFacts:
    return AttemptFacts(
        job, number, outcome, cause, "gcc:14", "https://a.org/x.git", "make all", 90.4
    )


def unsuccessful(
    job: str, outcome: OutcomeName = FAILED, message: str = "exited 2"
) -> Unsuccessful:
    return Unsuccessful(job, f"name of {job}", outcome, message)


def test_an_empty_week_says_so() -> None:
    empty = Summary(WEEK, {}, {})
    assert sentence(empty) == (
        "No container task ended from 2026-10-05 06:00 to 2026-10-12 06:00 UTC."
    )
    assert "| all | 0 | 0 |" in markdown(empty)
    assert "## Causes" not in markdown(empty)


def test_causes_are_counted_by_the_last_attempt_and_lead_to_the_newest_run() -> None:
    summary = Summary(
        WEEK,
        {OutcomeName.SUCCEEDED: 4, FAILED: 3, OutcomeName.REJECTED: 1},
        {OutcomeName.SUCCEEDED: 2, FAILED: 7},
        [
            unsuccessful("new"),
            unsuccessful("r", OutcomeName.REJECTED, "no such key"),
            unsuccessful("old"),
            unsuccessful("other"),
        ],
        [
            attempt("new", 1, "infrastructure", "engine"),
            attempt("new", 2),
            attempt("old"),
            attempt("other", cause="command-not-runnable"),
            attempt("good", 1),
            attempt("good", 2, "succeeded", "succeeded"),
        ],
    )
    found = [(each.outcome, each.name, each.runs, each.last.run_id) for each in summary.causes]
    assert found == [
        (FAILED, "exit-code", 2, "new"),
        (OutcomeName.REJECTED, "rejected", 1, "r"),
        (FAILED, "command-not-runnable", 1, "other"),
    ]
    assert sentence(summary).splitlines() == [
        "Container tasks from 2026-10-05 06:00 to 2026-10-12 06:00 UTC: 8, of which 4 succeeded, "
        "3 failed, 1 rejected.",
        "The 7 days before: 9, of which 2 succeeded.",
        "Causes: exit-code 2, rejected 1, command-not-runnable 1.",
    ]
    text = markdown(summary)
    assert "| failed | 3 | 7 |" in text
    assert "| `gcc:14` | 4 | 3 | 0:06:00 |" in text
    assert "| 0:01:30 | failed | `gcc:14` | `make all` | [open](/runs/flow-run/new) |" in text
    assert "more than one attempt: 2, of which 1 succeeded in the end" in text
    assert payload(summary)["retriedRuns"] == 2


def test_the_text_of_strangers_is_shown_as_text() -> None:
    run = Unsuccessful("id", "a](http://evil) | b", FAILED, "<img src=x>\n| x | ![](http://evil)")
    made = AttemptFacts("id", 1, "failed", "exit-code", "i`m|g", "", "rm [x](y)", 1.0)
    text = markdown(Summary(WEEK, {FAILED: 1}, {}, [run], [made]))
    assert "| `a](http://evil)` \\| b |" in text
    assert "| \\<img src=x\\> \\| x \\| `![](http://evil)` | [open](/runs/flow-run/id) |" in text
    assert "i\\`m\\|g" in text
    assert all(line.startswith("|") for line in text.splitlines() if " | " in line)


def test_a_summary_that_leaves_runs_out_says_so() -> None:
    assert "of the newest" in markdown(Summary(WEEK, {FAILED: 9}, {}, left_out=True))


@pytest.mark.parametrize(
    "data", [None, "", "[", "{}", '{"jobId": 1}', "[1]", '[{"key": "jobId", "value": "x"}]']
)
def test_an_artifact_that_is_none_of_ours_counts_for_nothing(
    data: dict[str, Any] | str | None,
) -> None:
    assert AttemptFacts.of(recorded(Artifact(data=data))) is None


def test_an_artifact_is_read_as_it_is_written() -> None:
    facts = {
        "jobId": "j",
        "attempt": "2",
        "outcome": "succeeded",
        "failureClass": "",
        "image": "i",
        "repository": "",
        "commandSummary": "make",
        "durationSeconds": "1.5",
    }
    made = AttemptFacts("j", 2, "succeeded", "succeeded", "i", "", "make", 1.5)
    assert AttemptFacts.of(recorded(Artifact(data="| key | value |", metadata_=facts))) == made
    # As the version before wrote it.
    data = json.dumps([{"key": key, "value": value} for key, value in facts.items()])
    assert AttemptFacts.of(recorded(Artifact(data=data))) == made


@pytest.mark.docker
async def test_it_counts_what_ended_in_its_days_and_what_ended_before(runner: Runner) -> None:
    since = datetime.now(UTC)
    await runner(shell("true"))
    twice = await runner(shell("exit 75", retry={"exitCodes": {"75": 1}}))
    refused = await runner(shell("true", timeoutSecond=1))
    until = datetime.now(UTC)
    async with get_client() as client:
        summary = await look_back(client, Period(since, until))
        later = await look_back(client, Period(until, until + (until - since)))
    expected = {OutcomeName.SUCCEEDED: 1, FAILED: 1, OutcomeName.REJECTED: 1}
    assert summary.outcomes == expected
    assert later.before == expected
    assert later.outcomes == {}
    causes = {(each.name, each.last.run_id) for each in summary.causes}
    assert causes == {("exit-code", twice.job_id), ("rejected", refused.job_id)}
    assert [(each.job_id, each.number) for each in summary.retried] == [(twice.job_id, 2)]
    assert not summary.left_out


@pytest.mark.server
def test_it_runs_in_a_pool_of_processes_as_well(processes: Weather) -> None:
    stack = processes.stack
    ours = stack.api("GET", "/deployments/name/failure-summary/docker").json()
    kept = ("flow_id", "entrypoint", "job_variables", "tags")
    stack.register(name="processes", work_pool_name="processes", **{key: ours[key] for key in kept})
    run_id = stack.submit_to("failure-summary/processes")
    flow_run = stack.await_final(run_id)
    assert flow_run["state_type"] == "COMPLETED", flow_run["state"]["message"]
    latest = stack.api("GET", "/artifacts/container-task-summary/latest").json()
    assert latest["flow_run_id"] == run_id
