"""Attempts whose engine is out of reach when a process takes them up, ends or follows them."""

import asyncio
import errno
import logging
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flows.attempt import Attempt, Executed, Prepared, RetryRules
from flows.errors import (
    ContainerGone,
    EngineError,
    EngineRefused,
    EngineSilent,
    EngineUnavailable,
)
from flows.outcome import CANCELED, OVERDUE, Outcome, OutcomeName, StoppedBy
from flows.runtime.attempts import execute_attempt, finish_attempt
from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.context import Job
from flows.runtime.ending import require_gone
from flows.runtime.engine_wait import EngineWait, Nobody
from flows.runtime.store import AttemptStore
from flows.runtime.suspension import pause
from flows.spec import Run
from flows.workspace.folder import Workspace
from tests.behaviours import busybox
from tests.finished import LOG
from tests.runs import payload
from tests.specs import compiled
from tests.test_engine_away import PAUSE_SECONDS, has_waited

pytestmark = pytest.mark.usefixtures("outside_a_run")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.runtime.engine_wait._LONGEST_PAUSE_SECONDS", PAUSE_SECONDS)


class Case:
    """An attempt of which another process left a container on an engine in memory."""

    def __init__(self, root: Path, seconds: str = "60", now: datetime | None = None) -> None:
        about = Run(str(uuid4()), attempt=1, worker="test", now=now or datetime.now(UTC))
        workspace = Workspace(root, about.job_id)
        workspace.create("container")
        self.spec = compiled(payload("sleep", seconds), workspace.mount, about)
        prepared = Prepared(workspace, self.spec, None, None, None, RetryRules(0, 0, {}), 0.1)
        self.engine = busybox()
        self.said: list[str] = []
        logger = logging.getLogger(about.job_id)
        logger.addFilter(self._hear)
        logger.setLevel(logging.INFO)
        self.store = AttemptStore(root, about.job_id)
        self.store.note_taken()
        self.job = Job(self.store, logger, lambda _: nullcontext(self.engine))
        self.attempt = Attempt(prepared, datetime.now(UTC), began=True)
        self.store.put(self.attempt)

    async def begin(self) -> None:
        await self.engine.create(self.spec, await self.engine.pull(self.spec), {})
        await self.engine.start(self.spec)
        self.engine.is_away = True

    def _hear(self, record: logging.LogRecord) -> bool:
        self.said.append(record.getMessage())
        return True

    def said_of(self, words: str) -> int:
        return sum(words in sentence for sentence in self.said)

    def ended(self, **changes: Any) -> Attempt:
        now = datetime.now(UTC)
        outcome = replace(Outcome(OutcomeName.INFRASTRUCTURE), **changes)
        return replace(self.attempt, executed=Executed(outcome, LOG, now, now))


@pytest.fixture
async def case(tmp_path: Path) -> Case:
    case = Case(tmp_path)
    await case.begin()
    return case


async def test_an_attempt_is_adopted_once_its_engine_is_back_and_that_is_told(
    tmp_path: Path, prefect_api: None
) -> None:
    case = Case(tmp_path, "0.2")
    await case.begin()
    running = asyncio.create_task(execute_attempt(case.job, case.attempt))
    await has_waited(case.engine, running)
    assert case.said_of("out of reach") == 1
    case.engine.is_away = False
    executed = await running
    assert (executed.outcome.name, executed.outcome.exit_code) == ("succeeded", 0)
    assert (case.said_of("out of reach"), case.said_of("answers again")) == (1, 1)
    assert case.store.last() == executed


async def test_an_attempt_whose_engine_stays_away_past_its_death_date_ends_as_infrastructure(
    tmp_path: Path,
) -> None:
    case = Case(tmp_path, now=datetime(2020, 1, 1, tzinfo=UTC))
    await case.begin()
    executed = await execute_attempt(case.job, case.attempt)
    assert (executed.outcome.name, executed.outcome.unreached) == ("infrastructure", True)
    assert case.store.last() == executed


@pytest.mark.parametrize(
    ("error", "words", "unreached"),
    [
        (EngineUnavailable("Docker failed: a fault of its own"), "a fault of its own", True),
        (EngineRefused("Docker refused: no such thing"), "no such thing", True),
        (ContainerGone("the container is gone"), "vanished", False),
    ],
)
@pytest.mark.parametrize("asked", ["find", "secrets"])
async def test_an_attempt_that_cannot_be_adopted_ends_as_infrastructure(
    case: Case,
    asked: str,
    error: EngineError,
    words: str,
    unreached: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fails(_: object) -> Any:
        raise error

    case.engine.is_away = False
    monkeypatch.setattr("flows.runtime.engine_wait.PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(case.engine, asked, fails)
    executed = await execute_attempt(case.job, case.attempt)
    assert (executed.outcome.name, executed.outcome.unreached) == ("infrastructure", unreached)
    assert words in (executed.outcome.error or "")
    assert case.store.last() == executed
    assert "stop" not in case.engine.calls


@pytest.mark.parametrize("unfinished", [CANCELED, OVERDUE])
async def test_an_attempt_is_ended_by_nobody_while_its_engine_is_away(
    case: Case, unfinished: Outcome
) -> None:
    with pytest.raises(EngineSilent):
        await finish_attempt(case.job, case.attempt, unfinished)
    kept = case.store.last()
    assert kept is not None
    assert (kept.executed, kept.stopping) == (None, None)
    case.engine.is_away = False
    assert (await finish_attempt(case.job, kept, unfinished)).outcome.name == unfinished.name
    assert case.engine.containers == {}


async def test_a_cancellation_is_noted_before_the_container_that_runs_is_stopped(
    case: Case,
) -> None:
    case.engine.is_away = False
    case.engine.leaves_at = "stop"
    with pytest.raises(EngineSilent):
        await finish_attempt(case.job, case.attempt, CANCELED)
    kept = case.store.last()
    assert kept is not None
    assert (kept.executed, kept.stopping) == (None, StoppedBy.CANCEL)


async def test_a_container_that_had_ended_before_its_run_was_cancelled_tells_its_own_end(
    tmp_path: Path,
) -> None:
    case = Case(tmp_path, "0")
    await case.begin()
    case.engine.is_away = False
    assert await case.engine.wait(case.spec, 60.0)
    finished = await finish_attempt(case.job, case.attempt, CANCELED)
    assert (finished.outcome.name, finished.outcome.exit_code) == ("succeeded", 0)
    assert finished.stopping is None


async def test_an_overdue_attempt_is_ended_when_its_engine_is_back(case: Case) -> None:
    wait = EngineWait.of(case.spec)
    running = asyncio.create_task(finish_attempt(case.job, case.attempt, OVERDUE, wait=wait))
    await has_waited(case.engine, running)
    case.engine.is_away = False
    assert (await running).outcome.name is OutcomeName.TIMED_OUT
    assert case.engine.containers == {}


@pytest.mark.parametrize(
    "left", [{"unreached": True}, {"cleanup_error": "Docker does not answer"}, None]
)
async def test_no_attempt_follows_one_whose_container_may_still_run(case: Case, left: Any) -> None:
    earlier = case.ended(**left) if left else case.attempt
    running = asyncio.create_task(require_gone(case.engine, [earlier], Nobody()))
    await has_waited(case.engine, running)
    case.engine.is_away = False
    await running
    assert case.engine.containers == {}


async def test_an_attempt_follows_one_whose_container_the_engine_has_removed(case: Case) -> None:
    await require_gone(case.engine, [case.ended()], Nobody())
    assert case.engine.refused == 0


@pytest.mark.parametrize("runs", [True, False])
async def test_a_container_that_cannot_be_removed_is_in_the_way_while_it_runs(
    case: Case, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.runtime.engine_wait.PATIENCE_SECONDS", 0.1)
    engine = case.engine
    engine.is_away = False
    if not runs:
        await engine.stop(case.spec)
    container = engine.containers[case.spec.name]

    async def fails(_: object) -> None:
        raise EngineUnavailable("Docker failed while removing the container: device busy")

    monkeypatch.setattr(engine, "destroy", fails)
    if runs:
        container.state = replace(container.state, running=True)
        with pytest.raises(EngineUnavailable, match="device busy"):
            await require_gone(engine, [case.attempt], Nobody())
    else:
        await require_gone(engine, [case.attempt], Nobody())


@pytest.mark.parametrize(("reason", "name"), [(None, "succeeded"), (Reason.CANCEL, "canceled")])
async def test_a_disk_without_room_for_a_note_keeps_no_container_and_replaces_no_outcome(
    tmp_path: Path, reason: Reason | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, cancellation = Case(tmp_path, "60" if reason else "0.2"), Cancellation()
    began = replace(case.attempt, began=False)
    running = asyncio.create_task(execute_attempt(case.job, began, cancellation))
    while "wait" not in case.engine.calls:
        await asyncio.sleep(0.01)

    def is_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(AttemptStore, "_write", is_full)
    if reason is not None:
        cancellation.request(reason)
    executed = await running
    assert executed.outcome.name == name
    assert case.said_of("could not be noted") > 0
    assert case.engine.containers == {}
    assert case.store.last() == replace(case.attempt, executed=None), "nothing more had room"


async def test_an_engine_that_fails_by_itself_holds_up_nobody_who_does_not_wait(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def fails(_: object) -> bool:
        asked.append("find")
        raise EngineUnavailable("Docker failed while looking for the container")

    monkeypatch.setattr(case.engine, "find", fails)
    with pytest.raises(EngineUnavailable):
        await EngineWait(0.0).ask(lambda: case.engine.find(case.spec))
    assert len(asked) == 1


async def test_a_pause_that_an_engine_is_away_at_is_asked_for_again(tmp_path: Path) -> None:
    case = Case(tmp_path)
    await case.begin()
    case.engine.is_away, case.engine.leaves_at = False, "pause"
    pausing = asyncio.create_task(pause(case.job, case.attempt))
    await has_waited(case.engine, pausing)
    case.engine.is_away = False
    await pausing
    (container,) = case.engine.containers.values()
    assert container.state.paused
    assert "stop" not in case.engine.calls


async def test_a_container_runs_on_whose_engine_does_not_say_that_it_cannot_pause_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.runtime.suspension.CANCEL_SECONDS", 0.2)
    case = Case(tmp_path)
    await case.begin()
    case.engine.is_away, case.engine.leaves_at = False, "pause"
    with pytest.raises(EngineSilent):
        await pause(case.job, case.attempt)
    (container,) = case.engine.containers.values()
    assert container.state.running
