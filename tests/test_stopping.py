"""A run that is told to stop, at every step of its attempt: it does, and no other one follows."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort
from prefect.flow_engine import run_flow
from prefect.states import Cancelled, Cancelling, Completed, Failed, Pending, Suspended

from flows.attempt import Attempt
from flows.container_task import container_task
from flows.engine.types import Evidence
from flows.errors import EngineRefused
from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.context import Dependencies
from flows.runtime.history import HANDED_OVER
from flows.runtime.store import AttemptStore
from flows.runtime.suspension import gone_on
from flows.settings import HostSettings
from flows.spec import ContainerSpec
from flows.testing import FakeEngine, Process
from tests.finished import finished
from tests.runs import payload, until_async

Said = Callable[[], Awaitable[None]]


def fails(process: Process) -> int:
    """Ends by itself, such that another attempt would follow."""
    return 75


def sleeps(process: Process) -> int:
    process.sleep(60)
    return 0


class Telling(FakeEngine):
    """Has something said while it does one step, of which nothing is told to who waits for it."""

    at: str = ""
    says: Said

    async def evidence(self, spec: ContainerSpec, since: datetime) -> Evidence:
        await self._say("evidence")
        return await super().evidence(spec, since)

    async def stop(self, spec: ContainerSpec) -> None:
        await self._say("stop")
        await super().stop(spec)

    async def destroy(self, spec: ContainerSpec) -> None:
        await self._say("destroy")
        await super().destroy(spec)

    async def _say(self, step: str) -> None:
        if step == self.at and step not in self.calls:
            self.calls.append(f"said at {step}")
            await self.says()


class Ran:
    """One run of the flow on an engine in memory, whose process may be told to stop."""

    def __init__(self, engine: FakeEngine, **container: Any) -> None:
        self.engine = engine
        self._payload = payload("anything", retry={"exitCodes": {"75": 3}}, **container)
        self.run_id: UUID | None = None

    @property
    def store(self) -> AttemptStore:
        assert self.run_id is not None
        return AttemptStore(HostSettings().workdir, str(self.run_id))

    @property
    def last(self) -> Attempt | None:
        return self.store.last() if self.run_id else None

    async def to_its_end(self) -> State[Any]:
        """Run it, or go on with it, in a process that was told nothing yet; its state then."""
        self.cancellation = Cancellation()
        flow = container_task.bind(
            Dependencies(lambda _: nullcontext(self.engine), self.cancellation)
        )
        async with get_client() as client:
            if self.run_id is None:
                parameters = {"payload": self._payload}
                made = await client.create_flow_run(flow, parameters=parameters, state=Pending())
                self.run_id = made.id
            run = await client.read_flow_run(self.run_id)
        await run_flow(flow, flow_run=run, return_type="state")  # type: ignore[misc]
        return await self.state()

    async def state(self) -> State[Any]:
        assert self.run_id is not None
        async with get_client() as client:
            state = (await client.read_flow_run(self.run_id)).state
        assert state is not None
        return state

    async def say(self, said: State[Any], reason: Reason) -> None:
        """Set the state, and have the process told, as a worker does that hears of it."""
        assert self.run_id is not None
        async with get_client() as client:
            await client.set_flow_run_state(self.run_id, said, force=True)
        self.cancellation.request(reason)

    async def cancel(self) -> None:
        await self.say(Cancelling(), Reason.CANCEL)


@pytest.mark.parametrize(
    ("at", "program", "outcome"),
    [("evidence", fails, "failed"), ("destroy", fails, "failed"), ("stop", sleeps, "timed-out")],
    ids=["outputs are collected", "its container is removed", "its container is stopped"],
)
async def test_a_run_that_is_cancelled_while_its_attempt_ends_gets_no_other_one(
    prefect_api: None, at: str, program: Any, outcome: str
) -> None:
    engine = Telling(program)
    # One that ends by itself must not meet its time limit on a busy machine.
    run = Ran(engine, **({"timeoutSeconds": 1} if program is sleeps else {}))
    engine.at, engine.says = at, run.cancel
    state = await run.to_its_end()
    assert state.is_cancelled()
    assert run.last is not None
    assert (run.last.outcome.name, run.last.published) == (outcome, True)
    assert engine.calls.count("create") == 1
    assert engine.containers == {}


@pytest.mark.parametrize(
    "is_time",
    [
        lambda attempt: attempt.executed is not None,
        lambda attempt: attempt.published,
    ],
    ids=["while it is published", "before the next one"],
)
async def test_a_run_that_is_cancelled_after_its_attempt_gets_no_other_one(
    prefect_api: None, monkeypatch: pytest.MonkeyPatch, is_time: Callable[[Attempt], bool]
) -> None:
    # Longer than a busy server takes to cancel it.
    monkeypatch.setattr("flows.container_task.backoff_seconds", lambda _: 60.0)
    engine = FakeEngine(fails)
    run = Ran(engine)
    ending = asyncio.create_task(run.to_its_end())
    await until_async(lambda: run.last is not None and is_time(run.last))
    await run.cancel()
    assert (await ending).is_cancelled()
    assert run.last is not None
    assert run.last.published
    assert engine.calls.count("create") == 1


async def test_a_final_state_that_somebody_sets_as_the_run_ends_stands(prefect_api: None) -> None:
    engine = Telling(lambda _: 0)
    run = Ran(engine)

    async def says() -> None:
        # Of which nobody tells the process.
        assert run.run_id is not None
        async with get_client() as client:
            await client.set_flow_run_state(run.run_id, Failed(message="I say so"), force=True)

    engine.at, engine.says = "destroy", says
    with pytest.raises(Abort, match="somebody set its final state, which stands"):
        await run.to_its_end()
    assert (await run.state()).message == "I say so"


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (Completed(message="I say so"), None),
        (Failed(message="I say so"), None),
        (Cancelled(message="I say so"), None),
        (Suspended(message="I say so"), "paused"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
async def test_what_a_person_said_right_before_a_hand_over_stands_and_is_done(
    prefect_api: None, said: State[Any], left: str | None
) -> None:
    engine = FakeEngine(sleeps)
    run = Ran(engine)
    ending = asyncio.create_task(run.to_its_end())
    await until_async(lambda: "wait" in engine.calls)
    await run.say(said, Reason.HAND_OVER)
    with pytest.raises(Abort):
        await ending
    assert (await run.state()).message == "I say so"
    assert [each.state.paused for each in engine.containers.values()] == ([True] if left else [])


async def test_a_hand_over_waits_for_no_server_that_does_not_say_what_a_person_said(
    prefect_api: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("flows.runtime.last_word.last_word", nothing)
    monkeypatch.setattr("flows.runtime.stopping._HAND_OVER_SECONDS", 0.01)
    engine = FakeEngine(sleeps)
    run = Ran(engine)
    ending = asyncio.create_task(run.to_its_end())
    await until_async(lambda: "wait" in engine.calls)
    run.cancellation.request(Reason.HAND_OVER)
    assert (await ending).message == HANDED_OVER
    assert len(engine.containers) == 1


async def test_a_suspended_run_leaves_its_container_paused_and_goes_on_in_the_next_process(
    prefect_api: None,
) -> None:
    may_end = threading.Event()

    def program(process: Process) -> int:
        while not may_end.is_set():
            process.sleep(0.01)
        return 0

    engine = FakeEngine(program)
    run = Ran(engine)
    ending = asyncio.create_task(run.to_its_end())
    await until_async(lambda: "wait" in engine.calls)
    await run.say(Suspended(), Reason.SUSPEND)
    with pytest.raises(Abort, match="somebody suspended it"):
        await ending
    (container,) = engine.containers.values()
    assert container.state.paused
    assert (await run.state()).name == "Suspended"
    assert run.last is not None
    assert run.last.paused_at is not None
    may_end.set()
    await run.say(Pending(), Reason.CANCEL)
    assert (await run.to_its_end()).is_completed()
    assert run.last.paused_at is None
    assert run.last.paused_seconds > 0
    assert engine.calls.count("create") == 1


class Unpausable(FakeEngine):
    """As one without root on a host of cgroup v1."""

    async def pause(self, spec: ContainerSpec) -> None:
        raise EngineRefused("the kernel gives it no freezer")


async def test_a_suspended_run_that_cannot_be_paused_is_stopped_and_begins_anew(
    prefect_api: None, caplog: pytest.LogCaptureFixture
) -> None:
    may_end = threading.Event()

    def program(process: Process) -> int:
        while not may_end.is_set():
            process.sleep(0.01)
        return 0

    engine = Unpausable(program)
    run = Ran(engine)
    ending = asyncio.create_task(run.to_its_end())
    await until_async(lambda: "wait" in engine.calls)
    await run.say(Suspended(), Reason.SUSPEND)
    with pytest.raises(Abort, match="somebody suspended it"):
        await ending
    assert engine.containers == {}
    assert "its task begins anew when the run is resumed" in caplog.text
    may_end.set()
    await run.say(Pending(), Reason.CANCEL)
    assert (await run.to_its_end()).is_completed()
    assert [each.prepared.spec.attempt for each in run.store.attempts()] == [1, 2]


def test_what_a_pause_took_is_counted_once(tmp_path: Path) -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    attempt = finished(tmp_path)
    assert gone_on(attempt, began) is attempt
    for seconds, total in ((90, 90.0), (30, 120.0)):
        paused = replace(attempt, paused_at=began)
        attempt = gone_on(paused, began + timedelta(seconds=seconds))
        assert (attempt.paused_at, attempt.paused_seconds) == (None, total)
    assert (
        gone_on(replace(attempt, paused_at=began), began - timedelta(hours=1)).paused_seconds == 120
    )
