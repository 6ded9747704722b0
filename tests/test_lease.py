"""For how long a worker acts for its runs while the server does not hear of it."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.engine.contract import Engine
from flows.errors import EngineRefused
from flows.outcome import Outcome, OutcomeName
from flows.payload.policy import Policy
from flows.runtime.cancellation import Cancellation, CancellationRequested, Reason
from flows.runtime.execution import RunOptions, run
from flows.runtime.lease import UNBOUNDED, Lease, Permit
from flows.runtime.leased_engine import under_permit
from flows.runtime.store import AttemptStore
from flows.spec import ContainerSpec
from flows.testing import FakeEngine, Process
from flows.worker.lease import keep_lease
from tests.behaviours import behave, busybox
from tests.finished import finished
from tests.runs import BUSYBOX, until_async
from tests.specs import Nowhere
from tests.test_execution import spec


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def held(clock: Clock) -> Lease:
    """A lease of 45 s that was renewed a moment ago."""
    lease = Lease(45, clock)
    lease.renew(clock.now)
    return lease


def test_a_lease_counts_from_the_sending_of_the_last_heartbeat_that_was_taken() -> None:
    clock = Clock()
    lease = Lease(45, clock)
    assert not lease.is_held, "nothing was taken yet"
    sent_at, clock.now = lease.now(), 1010.0
    lease.renew(sent_at)
    assert lease.seconds_left == 35
    # The answer to an older one came later.
    lease.renew(990.0)
    assert lease.seconds_left == 35
    clock.now = 1045.0
    assert not lease.is_held


@pytest.mark.parametrize(("patience", "left"), [(60, 45), (300, 270)])
def test_a_lease_ends_well_before_others_take_over(patience: float, left: float) -> None:
    lease = Lease.under(patience)
    lease.renew(lease.now())
    assert left - 5 < lease.seconds_left <= left


def test_the_time_without_a_lease_is_counted() -> None:
    clock = Clock()
    lease = held(clock)
    clock.now += 45 + 30
    assert lease.lost_seconds == 30
    lease.renew(clock.now)
    clock.now += 45 + 5
    assert lease.lost_seconds == 35
    assert UNBOUNDED.lost_seconds == 0


async def test_a_limit_leaves_out_the_time_without_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    lease = held(clock)
    slept: list[float] = []

    async def pass_by(seconds: float) -> None:
        slept.append(seconds)
        assert len(slept) <= 3, slept
        clock.now += seconds
        lease.renew(clock.now)

    monkeypatch.setattr("flows.runtime.lease.asyncio", SimpleNamespace(sleep=pass_by))
    await lease.sleep(100)
    # Each begins with a lease of 45 s, and what is beyond that is slept again.
    assert slept == [100, 55, 10]


class Server:
    """Takes heartbeats, or does not; notes the order of what it is asked."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self.is_there = True
        self.asked: list[str] = []

    async def heartbeat(self) -> None:
        self.asked.append("heartbeat")
        if not self.is_there:
            raise ConnectionError("refused")

    async def confirm(self) -> None:
        assert not self._lease.is_held, "nothing may act before it is known whose the runs are"
        self.asked.append("whose")


async def test_a_lease_that_had_run_out_is_held_again_after_it_is_known_whose_the_runs_are() -> (
    None
):
    clock = Clock()
    lease = Lease(45, clock)
    server = Server(lease)
    log = logging.getLogger(__name__)
    keeping = asyncio.ensure_future(
        keep_lease(lease, server.heartbeat, server.confirm, log, seconds=0.01)
    )
    try:
        await until_async(lambda: server.asked[:3] == ["heartbeat", "whose", "heartbeat"])
        server.is_there = False
        await until_async(lambda: lease.seconds_left < 45 or not server.is_there)
        asked = len(server.asked)
        await until_async(lambda: len(server.asked) > asked)
        clock.now += 45
        assert not lease.is_held
        server.is_there, server.asked = True, []
        await until_async(lambda: lease.is_held)
        assert server.asked[:2] == ["heartbeat", "whose"]
    finally:
        keeping.cancel()


class Heard:
    """A lease that is renewed as long as the server hears of the worker."""

    def __init__(self) -> None:
        self._passed = 0.0
        self.lease = Lease(45, lambda: time.monotonic() + self._passed)
        self.cancellation = Cancellation()
        self.is_heard = True

    def lapse(self) -> None:
        """The server hears of it no more, and the time of the lease passes at once."""
        self.is_heard = False
        self._passed += 45

    async def renew(self) -> None:
        while True:
            if self.is_heard:
                self.lease.renew(self.lease.now())
            await asyncio.sleep(0.05)

    async def run(
        self,
        engine: FakeEngine,
        *command: str,
        seconds: int = 30,
        store: AttemptStore | None = None,
    ) -> Outcome:
        """Run a container on the engine, under this lease."""

        @asynccontextmanager
        async def opened(policy: Policy | None) -> AsyncIterator[Engine]:
            yield engine

        open_engine = under_permit(opened, Permit(self.lease, self.cancellation), store)
        async with open_engine(None) as leased:
            options = RunOptions(cancellation=self.cancellation)
            return await run(leased, spec(*command, timeoutSeconds=seconds), Nowhere(), options)


@pytest.fixture
async def heard(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Heard]:
    monkeypatch.setattr("flows.runtime.lease._PIECE_SECONDS", 0.05)
    heard = Heard()
    renewing = asyncio.ensure_future(heard.renew())
    yield heard
    renewing.cancel()


def paused(engine: FakeEngine) -> list[bool]:
    return [container.state.paused for container in engine.containers.values()]


def until_told(goes_on: threading.Event) -> FakeEngine:
    """An engine whose containers run until then."""

    def program(process: Process) -> None:
        while not goes_on.is_set():
            process.sleep(0.01)

    return FakeEngine(program, images=(BUSYBOX,))


async def test_a_container_stands_still_without_a_lease_and_its_time_limit_with_it(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, goes_on = Clock(), threading.Event()
    monkeypatch.setattr("flows.runtime.leased_engine.time", SimpleNamespace(monotonic=clock))
    engine = until_told(goes_on)
    running = asyncio.ensure_future(heard.run(engine, "wait", seconds=30))
    await until_async(lambda: "wait" in engine.calls)
    heard.lapse()
    await until_async(lambda: paused(engine) == [True])
    # More than its time limit, in which it stands still.
    clock.now += 40
    assert not running.done()
    heard.is_heard = True
    await until_async(lambda: engine.calls.count("wait") == 2)
    goes_on.set()
    outcome = await running
    assert outcome.name is OutcomeName.SUCCEEDED, outcome
    assert engine.calls.count("unpause") == 1


async def test_for_how_long_it_stood_still_is_noted_for_a_process_that_takes_it_up(
    heard: Heard, tmp_path: Path
) -> None:
    goes_on = threading.Event()
    engine = until_told(goes_on)
    store = AttemptStore(tmp_path, finished(tmp_path).prepared.spec.job_id)
    running = asyncio.ensure_future(heard.run(engine, "wait", store=store))
    await until_async(lambda: "wait" in engine.calls)
    heard.lapse()
    await until_async(lambda: paused(engine) == [True])
    (noted,) = store.attempts()
    assert noted.paused_at is not None
    await asyncio.sleep(0.2)
    heard.is_heard = True
    await until_async(lambda: engine.calls.count("wait") == 2)
    goes_on.set()
    await running
    (noted,) = store.attempts()
    assert noted.paused_at is None
    assert noted.paused_seconds >= 0.2


async def test_no_container_begins_without_a_lease(heard: Heard) -> None:
    engine = busybox()
    heard.lapse()
    await until_async(lambda: not heard.lease.is_held)
    running = asyncio.ensure_future(heard.run(engine, "print", "hi"))
    await until_async(lambda: "pull" in engine.calls)
    await asyncio.sleep(0.5)
    assert engine.containers == {}
    heard.is_heard = True
    assert (await running).name is OutcomeName.SUCCEEDED


@pytest.mark.parametrize("step", ["create", "wait"])
async def test_a_run_that_is_another_hosts_by_then_never_runs_on(heard: Heard, step: str) -> None:
    engine = busybox()
    if step == "create":
        heard.lapse()
        await until_async(lambda: not heard.lease.is_held)
    running = asyncio.ensure_future(heard.run(engine, "sleep", "30"))
    await until_async(lambda: ("pull" if step == "create" else "wait") in engine.calls)
    heard.lapse()
    if step == "wait":
        await until_async(lambda: paused(engine) == [True])
    heard.cancellation.request(Reason.TAKEN)
    heard.lease.renew(heard.lease.now())
    await asyncio.wait([running])
    assert engine.containers == {}
    assert "unpause" not in engine.calls
    assert ("start" in engine.calls) is (step == "wait")


class LosesAnswer(FakeEngine):
    """Is away as soon as it has paused a container, before anybody hears of that."""

    async def pause(self, spec: ContainerSpec) -> None:
        await super().pause(spec)
        if self.calls.count("pause") == 1:
            self.is_away = True
            self._require_reach()


@pytest.mark.parametrize("step", ["pause", "its answer", "unpause"])
async def test_a_container_that_stands_still_goes_on_also_where_its_engine_was_away_then(
    heard: Heard, step: str
) -> None:
    may_end = threading.Event()

    def program(process: Process) -> int:
        while not may_end.is_set():
            process.sleep(0.01)
        return 0

    engine = (LosesAnswer if step == "its answer" else FakeEngine)(program, leaves_at=step)
    running = asyncio.ensure_future(heard.run(engine, "anything", seconds=2))
    await until_async(lambda: "wait" in engine.calls)
    heard.lapse()
    if step == "unpause":
        await until_async(lambda: paused(engine) == [True])
        heard.is_heard = True
    await until_async(lambda: engine.refused > 2)
    # Past its time limit, of which standing still is no part.
    await asyncio.sleep(2)
    if step != "unpause":
        engine.is_away = False
        await until_async(lambda: engine.calls.count("pause") > 1, 10)
        assert paused(engine) == [True]
        heard.is_heard = True
    may_end.set()
    engine.is_away = False
    outcome = await asyncio.wait_for(running, 10)
    assert outcome.name is OutcomeName.SUCCEEDED, outcome


NO_FREEZER = "the kernel has no freezer"


class WithoutFreezer(FakeEngine):
    async def pause(self, spec: ContainerSpec) -> None:
        raise EngineRefused(NO_FREEZER)


async def test_where_no_container_can_be_paused_it_is_stopped(heard: Heard) -> None:
    engine = WithoutFreezer(behave, images=(BUSYBOX,))
    running = asyncio.ensure_future(heard.run(engine, "sleep", "30"))
    await until_async(lambda: "wait" in engine.calls)
    heard.lapse()
    outcome = await running
    assert outcome.name is OutcomeName.INFRASTRUCTURE
    assert (outcome.error or "").endswith(f"was stopped: {NO_FREEZER}")
    assert engine.containers == {}


async def test_leave_is_given_once_the_lease_is_held_and_to_nobody_whose_run_was_taken() -> None:
    clock = Clock()
    permit = Permit(Lease(45, clock))
    given = asyncio.ensure_future(permit.given())
    await asyncio.sleep(0)
    assert not given.done()
    permit.lease.renew(clock.now)
    await given
    permit.cancellation.request(Reason.TAKEN)
    with pytest.raises(CancellationRequested):
        await permit.given()
