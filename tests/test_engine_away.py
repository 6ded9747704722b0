"""An engine that is out of reach ends no attempt: the run waits, and goes on with what it finds."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from flows.engine.contract import Measured
from flows.engine.types import Pong
from flows.errors import EngineSilent, EngineUnavailable
from flows.outcome import FailureClass, Outcome, OutcomeName, StoppedBy
from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.engine_wait import Again, EngineWait
from flows.runtime.execution import RunOptions, run
from flows.runtime.observer import Observer
from flows.spec import EXPIRY_SLACK_SECONDS, LABEL_EXPIRES_AT, seconds_to_live
from flows.testing import FakeEngine
from tests.behaviours import busybox
from tests.specs import Collector, Nowhere
from tests.test_execution import spec

Running = asyncio.Task[Any]
PAUSE_SECONDS = 0.03


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.runtime.engine_wait._LONGEST_PAUSE_SECONDS", PAUSE_SECONDS)


async def has_waited(engine: FakeEngine, running: Running, asked: int = 6) -> None:
    """The engine is away, and was asked again and again."""
    while engine.refused < asked:
        assert not running.done(), "ended without a word of the engine"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("step", ["create", "missing_workdir", "tail", "start", "wait", "inspect"])
async def test_an_engine_that_is_away_for_a_while_is_waited_for_and_its_container_goes_on(
    step: str,
) -> None:
    engine, output = busybox(), Collector()
    engine.leaves_at = step
    running = asyncio.create_task(run(engine, spec("print", "hi"), output))
    await has_waited(engine, running)
    engine.is_away = False
    outcome = await running
    assert (outcome.name, outcome.exit_code, outcome.log_complete) == ("succeeded", 0, True)
    assert output.output == b"hi\n"
    assert engine.calls.count("create") == 1
    assert engine.containers == {}


class Heard(Observer):
    """Notes what an observer is told."""

    def __init__(self) -> None:
        self.stopped_by: list[StoppedBy] = []
        self.ended_as: list[Outcome] = []

    def stopping(self, stopped_by: StoppedBy) -> None:
        self.stopped_by.append(stopped_by)

    def ended(self, outcome: Outcome) -> None:
        self.ended_as.append(outcome)


class Words:
    """Notes what is told of an engine's absences."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def away(self, error: EngineSilent) -> None:
        self.said.append("away")

    def back(self, seconds: float) -> None:
        self.said.append("back")


async def test_an_absence_is_told_once_and_so_is_its_end() -> None:
    engine, words, task = busybox(), Words(), spec("print", "hi")
    engine.leaves_at = "wait"
    options = RunOptions(wait=EngineWait.of(task, words))
    running = asyncio.create_task(run(engine, task, Nowhere(), options))
    await has_waited(engine, running)
    assert words.said == ["away"]
    engine.is_away = False
    assert (await running).name is OutcomeName.SUCCEEDED
    assert words.said == ["away", "back"]


async def test_an_engine_is_waited_for_until_the_death_date_of_its_container() -> None:
    engine, heard, task = busybox(), Heard(), spec("sleep", "60")
    engine.leaves_at = "wait"
    options = RunOptions(wait=EngineWait(0.2), observer=heard)
    outcome = await run(engine, task, Nowhere(), options)
    assert (outcome.name, outcome.failure_class) == ("infrastructure", FailureClass.ENGINE)
    assert outcome.unreached
    assert "out of reach for too long" in (outcome.error or "")
    assert heard.ended_as == [outcome]
    assert list(engine.containers) == [task.name], "nobody could remove it"


async def test_an_engine_that_is_away_before_anything_is_on_it_is_waited_for_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.runtime.engine_wait.PATIENCE_SECONDS", 0.2)
    engine = busybox()
    engine.is_away = True
    outcome = await run(engine, spec("print", "hi"), Nowhere())
    assert (outcome.name, outcome.unreached) == (OutcomeName.INFRASTRUCTURE, False)
    assert engine.refused > 1


async def test_a_run_that_is_told_to_end_while_its_engine_is_away_is_left_to_the_next_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.runtime.execution.CANCEL_SECONDS", 0.3)
    engine, heard, cancellation = busybox(), Heard(), Cancellation()
    task = spec("sleep", "60")
    engine.leaves_at = "wait"
    options = RunOptions(cancellation=cancellation, observer=heard)
    running = asyncio.create_task(run(engine, task, Nowhere(), options))
    await has_waited(engine, running)
    cancellation.request(Reason.CANCEL)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (heard.stopped_by, heard.ended_as) == ([StoppedBy.CANCEL], [])
    assert list(engine.containers) == [task.name], "the next process stops it"


async def test_a_cancellation_during_a_short_absence_stops_the_container() -> None:
    engine, cancellation = busybox(), Cancellation()
    engine.leaves_at = "wait"
    options = RunOptions(cancellation=cancellation)
    running = asyncio.create_task(run(engine, spec("sleep", "60"), Nowhere(), options))
    await has_waited(engine, running)
    cancellation.request(Reason.CANCEL)
    await has_waited(engine, running, engine.refused + 2)
    engine.is_away = False
    outcome = await running
    assert (outcome.name, outcome.exit_code, outcome.unreached) == ("canceled", 143, False)
    assert engine.containers == {}


@pytest.mark.parametrize(("sleeps", "name"), [("0.1", "succeeded"), ("60", "timed-out")])
async def test_a_time_limit_that_passes_while_the_engine_is_away_ends_what_still_runs_then(
    sleeps: str, name: str
) -> None:
    engine, heard = busybox(), Heard()
    engine.leaves_at = "wait"
    task = spec("sleep", sleeps, timeoutSeconds=1)
    running = asyncio.create_task(run(engine, task, Nowhere(), RunOptions(observer=heard)))
    # So many pauses are longer than its limit.
    await has_waited(engine, running, round(1.5 / PAUSE_SECONDS))
    engine.is_away = False
    outcome = await running
    assert (outcome.name, outcome.timed_out) == (name, name == "timed-out")
    assert heard.stopped_by == [StoppedBy.DEADLINE] * (name == "timed-out")


async def test_a_backstop_that_fires_while_the_engine_is_away_says_nothing_of_the_container() -> (
    None
):
    engine, cancellation = busybox(), Cancellation()
    engine.leaves_at = "wait"
    options = RunOptions(cancellation=cancellation)
    running = asyncio.create_task(run(engine, spec("sleep", "0.1"), Nowhere(), options))
    await has_waited(engine, running)
    cancellation.request(Reason.DEADLINE)
    await has_waited(engine, running, engine.refused + 2)
    engine.is_away = False
    assert (await running).name is OutcomeName.SUCCEEDED


async def test_a_container_is_adopted_when_its_engine_is_back() -> None:
    engine, task = busybox(), spec("sleep", "0.5")
    await engine.create(task, await engine.pull(task), {})
    await engine.start(task)
    engine.is_away = True
    running = asyncio.create_task(run(engine, task, Nowhere(), RunOptions(adopt=True)))
    await has_waited(engine, running)
    engine.is_away = False
    assert (await running).name is OutcomeName.SUCCEEDED
    assert engine.calls.count("create") == 1


async def test_what_is_left_of_a_time_limit_is_told_by_the_engines_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One whose clock is an hour ahead of this host's does not lose an hour of its limit."""
    engine, task = busybox(), spec("sleep", "60", timeoutSeconds=100)
    await engine.create(task, await engine.pull(task), {})
    await engine.start(task)
    ahead = timedelta(hours=-1)
    container = engine.containers[task.name]
    began = datetime.now(UTC) + ahead
    container.state = replace(container.state, started_at=began)
    left: list[float] = []

    class Left(Heard):
        def running(self, seconds_left: float, measured: Measured) -> None:
            left.append(seconds_left)

    async def ping() -> Pong:
        now = datetime.now(UTC)
        return Pong("memory", True, "fake", "", now + ahead, now)

    monkeypatch.setattr(engine, "ping", ping)
    cancellation = Cancellation()
    options = RunOptions(adopt=True, observer=Left(), cancellation=cancellation)
    running = asyncio.create_task(run(engine, task, Nowhere(), options))
    while not left:
        await asyncio.sleep(0)
    cancellation.request(Reason.CANCEL)
    await running
    assert 90 < left[0] <= 100


@pytest.mark.parametrize(
    ("left", "longest"), [(timedelta(hours=1), 3600.0), (timedelta(days=900), None)]
)
def test_no_clock_makes_a_containers_life_longer(left: timedelta, longest: float | None) -> None:
    task = spec("true")
    expires_at = datetime.fromisoformat(task.labels[LABEL_EXPIRES_AT])
    most = task.limit_seconds + EXPIRY_SLACK_SECONDS
    assert seconds_to_live(task, expires_at - left) == (longest or most)
    assert seconds_to_live(task, expires_at + left) == 0


async def test_faults_on_both_sides_of_a_silence_are_no_minute_of_faults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(
        "flows.runtime.engine_wait.time", SimpleNamespace(monotonic=lambda: clock.now)
    )
    fault, silence = EngineUnavailable("Docker failed: shutting down"), EngineSilent("no answer")
    answers = iter([fault, silence, silence, fault, True])

    async def question() -> bool:
        clock.now += 100.0 if (answer := next(answers)) is silence else 0.0
        if isinstance(answer, EngineUnavailable):
            raise answer
        return True

    assert await EngineWait(3600.0).ask(question)


@pytest.mark.parametrize("step", ["create", "start"])
async def test_an_engine_that_answers_all_but_one_request_is_asked_ever_more_slowly_for_a_minute(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.runtime.engine_wait.PATIENCE_SECONDS", 0.3)
    engine, asked = busybox(), 0

    async def loses(*_: object) -> None:
        nonlocal asked
        if (asked := asked + 1) > 100:
            raise AssertionError("asked without a pause")
        raise EngineSilent("a proxy answers 503")

    monkeypatch.setattr(engine, step, loses)
    outcome = await run(engine, spec("print", "hi"), Nowhere())
    assert (outcome.name, outcome.unreached) == ("infrastructure", False)
    assert "a proxy answers 503" in (outcome.error or "")
    assert asked > 1
    assert engine.containers == {}


async def test_pauses_before_a_lost_request_is_made_again_grow_and_are_a_minute_in_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("flows.runtime.engine_wait._LONGEST_PAUSE_SECONDS", 2.0)
    monkeypatch.setattr("flows.runtime.engine_wait.asyncio.sleep", sleep)
    again, lost = Again(), EngineSilent("a proxy answers 503")
    while sum(slept) < 60.0:
        await again.after(lost)
    with pytest.raises(EngineUnavailable, match="503") as raised:
        await again.after(lost)
    assert not isinstance(raised.value, EngineSilent)
    assert slept[:6] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    assert sum(slept) < 62.0
