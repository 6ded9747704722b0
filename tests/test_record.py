"""A record that cannot be read: another version's, or what a power cut left; and one that can."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client

from flows.runtime.lifecycle import Step
from flows.runtime.store import RecordUnreadable
from tests.driven import DrivenRun
from tests.runs import Runner, left_on_engine, shell, until_async, waiting
from tests.test_upgrade import DATA

pytestmark = pytest.mark.docker
_MAPPINGS = {"/prepared/spec/env", "/prepared/spec/labels", "/prepared/spec/secrets"}
Submit = Callable[[object], Awaitable[DrivenRun]]


def of_later_version(attempts: Any) -> None:
    attempts[-1]["version"] = 99


def of_unknown_word(attempts: Any) -> None:
    attempts[-1]["stopping"] = "an eclipse"


def spoiled(record: Path, by: Callable[[Any], None] | None) -> None:
    if by is None:
        # As a file system leaves it whose data were not written when the power went.
        record.write_bytes(b"")
        return
    attempts = json.loads(record.read_text())
    by(attempts)
    record.write_text(json.dumps(attempts))


@pytest.fixture
async def submit(prefect_api: None, jobs_folder: Path) -> AsyncIterator[Submit]:
    async with get_client() as client:
        yield lambda payload: DrivenRun.submitted(client, payload, jobs_folder)


@pytest.mark.parametrize("by", [of_later_version, of_unknown_word, None])
async def test_a_run_whose_record_cannot_be_read_loses_its_container_and_runs_once_more(
    submit: Submit, by: Callable[[Any], None] | None
) -> None:
    run = await submit(waiting("exit 0"))
    await run.dies_at_work()
    spoiled(run.record, by)
    with pytest.raises(RecordUnreadable):
        run.store.attempts()
    assert await run.driven() == [Step.SET_ASIDE, Step.RESTART]
    assert left_on_engine(run.id) == []
    assert run.record.with_suffix(".json.unreadable").exists()
    carrying = asyncio.create_task(run.carried())
    await until_async(lambda: run.is_at_work, 120)
    run.let_end()
    assert (await carrying).is_completed()
    (attempt,) = run.store.attempts()
    assert attempt.prepared.spec.attempt == 2
    await run.assert_told_once(attempts=2)


async def test_a_run_whose_record_cannot_be_read_and_that_may_not_run_again_says_so(
    submit: Submit,
) -> None:
    run = await submit(waiting("exit 0", retry={"infrastructure": 0}))
    await run.dies_at_work()
    spoiled(run.record, None)
    assert await run.driven() == [Step.SET_ASIDE, Step.SET_CRASHED]
    state = await run.state()
    assert (state.name, (state.message or "").partition(":")[0]) == (
        "Crashed",
        "what this host had noted of it cannot be read",
    )
    await run.assert_told_once(attempts=1)


@pytest.mark.parametrize(("retries", "name"), [(0, "InfrastructureError"), (1, "Completed")])
async def test_a_process_that_cannot_read_what_an_earlier_one_noted_begins_anew_where_it_may(
    submit: Submit, retries: int, name: str
) -> None:
    run = await submit(waiting("exit 0", retry={"infrastructure": retries}))
    await run.dies_at_work()
    spoiled(run.record, None)
    await run.retried()
    carrying = asyncio.create_task(run.carried())
    await until_async(lambda: carrying.done() or run.is_at_work, 120)
    if retries:
        run.let_end()
    assert (await carrying).name == name
    assert left_on_engine(run.id) == []


async def test_the_version_before_finds_all_that_it_reads_in_a_record_of_this_one(
    runner: Runner, jobs_folder: Path
) -> None:
    (earlier,) = json.loads((DATA / "earlier_attempt.json").read_text())
    done = await runner(shell("echo once", retry={"infrastructure": 0}))
    (now,) = json.loads((jobs_folder / ".runs" / f"{done.job_id}.json").read_text())
    assert not _missing(earlier, now)


def _missing(earlier: Any, now: Any, path: str = "") -> list[str]:
    """Fields of an earlier record that a later one lacks."""
    if not isinstance(earlier, dict) or not isinstance(now, dict) or path in _MAPPINGS:
        return []
    lost = [f"{path}/{key}" for key in earlier if key not in now]
    return lost + [
        each
        for key in earlier.keys() & now.keys()
        for each in _missing(earlier[key], now[key], f"{path}/{key}")
    ]
