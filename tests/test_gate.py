"""Whether runs are claimed: by what the engine says right before."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from flows.engine.contract import Engine
from flows.engine.selection import open_engine
from flows.errors import EngineUnavailable
from flows.outcome import FailureClass, failed
from flows.runtime.run_states import final_state
from flows.runtime.store import AttemptStore
from flows.settings import HostSettings
from flows.units import Resources
from flows.worker.gate import EngineGate, is_engines_fault
from tests.finished import finished


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Site:
    """A host's engine that may be away."""

    def __init__(self, folder: Path) -> None:
        self.is_away = False
        self.asked = 0
        self.clock = Clock()
        host = HostSettings(MOONMIND_WORKDIR=folder, MOONMIND_WORKER_CPUS=3)
        self.gate = EngineGate(host, logging.getLogger(__name__), self._open, self.clock)

    @asynccontextmanager
    async def _open(self, policy: object) -> AsyncIterator[Engine]:
        yield cast(Engine, self)

    async def ping(self) -> None:
        self.asked += 1
        if self.is_away:
            raise EngineUnavailable("it is away")

    async def capacity(self) -> Resources:
        return Resources(8, 1000)

    def fail(self, times: int) -> None:
        for _ in range(times):
            self.gate.note_end(engine_failed=True)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.docker
async def test_an_engine_that_answers_opens_the_gate(tmp_path: Path) -> None:
    host = HostSettings(MOONMIND_WORKDIR=tmp_path)
    gate = EngineGate(host, logging.getLogger(__name__), open_engine)
    assert await gate.opens()
    assert gate.total.cpus >= 1


async def test_the_host_has_what_its_settings_say_and_a_tenth_of_the_memory_for_itself(
    site: Site,
) -> None:
    assert await site.gate.opens()
    assert site.gate.total == Resources(3, 900)


async def test_an_engine_that_is_away_is_asked_again_ever_more_seldom(site: Site) -> None:
    site.is_away = True
    pauses = []
    for _ in range(7):
        assert not await site.gate.opens()
        pauses.append(site.gate.seconds_to_try)
        site.clock.now += pauses[-1] / 2
        assert not await site.gate.opens()
        site.clock.now += pauses[-1] / 2
    assert pauses == [1, 2, 4, 8, 10, 10, 10]
    assert site.asked == len(pauses)
    site.is_away = False
    assert await site.gate.opens()


async def test_an_engine_that_fails_one_task_after_the_other_is_given_one_now_and_then(
    site: Site,
) -> None:
    site.fail(2)
    assert await site.gate.opens()
    assert site.gate.at_most is None
    site.fail(1)
    assert not await site.gate.opens()
    site.clock.now += 30
    assert await site.gate.opens()
    assert site.gate.at_most == 1
    site.gate.note_begun()
    assert not await site.gate.opens(), "the next waits for it"
    site.fail(1)
    assert site.gate.seconds_to_try == 60
    site.gate.note_end(engine_failed=False)
    assert await site.gate.opens()
    assert site.gate.at_most is None


async def test_failures_between_which_a_task_ends_are_the_tasks(site: Site) -> None:
    for _ in range(5):
        site.fail(2)
        site.gate.note_end(engine_failed=False)
    assert await site.gate.opens()


@pytest.mark.parametrize(
    ("why", "is_its_fault"), [(FailureClass.ENGINE, True), (FailureClass.WORKSPACE, False)]
)
def test_a_repository_that_is_away_is_no_fault_of_the_engine(
    tmp_path: Path, why: FailureClass, is_its_fault: bool
) -> None:
    attempt = finished(tmp_path)
    assert attempt.executed is not None
    store = AttemptStore(tmp_path, attempt.prepared.spec.job_id)
    outcome = failed(why, "it failed")
    store.put(replace(attempt, executed=replace(attempt.executed, outcome=outcome)))
    assert is_engines_fault(final_state(outcome), store) is is_its_fault
