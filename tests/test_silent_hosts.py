"""Runs of hosts that are not heard of, on a real Prefect server, and who takes them over."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import AwaitingRetry, Cancelling, Completed, Pending, Running, Scheduled

from flows.report.names import FLOW_NAME
from flows.runtime.api_client import RunClientContext
from flows.runtime.history import HANDED_OVER, TAKEN_OVER
from flows.runtime.run_states import (
    FENCE_LABEL,
    HOST_LABEL,
    WORKER_LABEL,
    claim_message,
    fence_of,
    host_of,
)
from flows.worker.takeover import Silence, TakeOver
from tests.runs import shell

LOGGER = logging.getLogger(__name__)
PATIENCE, STEP = 60, 25
CLAIM = claim_message("gone", "its-host")


class Pool:
    """A pool whose worker `gone` is silent, and an observer's clock."""

    def __init__(self, client: PrefectClient) -> None:
        self.client = client
        self.name = f"pool-{uuid4()}"
        self.now = 0.0

    async def run(self, *states: State[Any], labels: bool = True, **retry: int) -> FlowRun:
        """A run that went through these states, as that worker's."""
        client = self.client
        flow_id = await client.create_flow_from_name(FLOW_NAME)
        deployment = await client.create_deployment(
            flow_id, name=str(uuid4()), work_pool_name=self.name
        )
        waiting: State[Any] = Scheduled()
        payload = {"payload": shell("true", retry=retry or {"infrastructure": 2})}
        run = await client.create_flow_run_from_deployment(
            deployment, parameters=payload, state=waiting
        )
        for state in states:
            await client.set_flow_run_state(run.id, state)
        if labels:
            names: dict[str, bool | int | float | str]
            names = {WORKER_LABEL: "gone", HOST_LABEL: "its-host"}
            await client.update_flow_run_labels(run.id, names)
        return run

    def worker(self, name: str) -> TakeOver:
        silence = Silence(lambda: self.now)
        return TakeOver(self.client, LOGGER, self.name, (f"host-{name}", name), PATIENCE, silence)

    async def pass_by(self, seconds: float, *workers: TakeOver) -> list[str]:
        """What they do in that time, looking every 25 seconds, all at once."""
        told = []
        for _ in range(-(-int(seconds) // STEP)):
            for each in await asyncio.gather(*(worker.look() for worker in workers)):
                told += each
            for worker in workers:
                await self.client.send_worker_heartbeat(self.name, worker.worker)
            self.now += STEP
        return told

    async def read(self, run: FlowRun) -> tuple[FlowRun, State[Any]]:
        found = await self.client.read_flow_run(run.id)
        assert found.state is not None
        return found, found.state

    async def messages(self, run: FlowRun) -> list[str | None]:
        return [state.message for state in await self.client.read_flow_run_states(run.id)]


@pytest.fixture
async def pool(prefect_api: None) -> AsyncIterator[Pool]:
    async with RunClientContext():
        pool = Pool(get_client())
        await pool.client.create_work_pool(WorkPoolCreate(name=pool.name, type="container-task"))
        await pool.client.send_worker_heartbeat(pool.name, "gone")
        yield pool


@pytest.mark.parametrize("state", [Running(), Pending(message=CLAIM)], ids=["running", "pending"])
async def test_a_run_of_a_silent_host_goes_back_into_its_queue_behind_a_fence(
    pool: Pool, state: State[Any]
) -> None:
    run = await pool.run(*([Pending(message=CLAIM), state] if state.is_running() else [state]))
    worker = pool.worker("one")
    assert await pool.pass_by(PATIENCE, worker) == []
    assert await pool.pass_by(STEP, worker) == [f"{run.id}: its host its-host is silent"]
    found, now = await pool.read(run)
    assert (now.type, now.name, now.message) == ("SCHEDULED", "AwaitingRetry", TAKEN_OVER)
    assert (fence_of(found), host_of(found)) == (1, "its-host")
    assert "Crashed" not in [each.name for each in await pool.client.read_flow_run_states(run.id)]


async def test_of_many_workers_one_takes_a_run_over(pool: Pool) -> None:
    runs = [await pool.run(Pending(message=CLAIM), Running()) for _ in range(3)]
    workers = [pool.worker(name) for name in ("one", "two", "three")]
    told = await pool.pass_by(PATIENCE + 60, *workers)
    assert sorted(told) == sorted(f"{run.id}: its host its-host is silent" for run in runs)
    for run in runs:
        assert (await pool.messages(run)).count(TAKEN_OVER) == 1
        assert fence_of((await pool.read(run))[0]) == 1


async def test_of_two_that_act_at_once_the_server_takes_one(pool: Pool) -> None:
    run = await pool.run(Pending(message=CLAIM), Running())
    # Each alone, as far as it has heard: it is the turn of both.
    workers = [pool.worker("one"), pool.worker("two")]
    for _ in range(PATIENCE // STEP + 1):
        for worker in workers:
            assert await worker.look() == []
        pool.now += STEP
    await asyncio.gather(*(worker.look() for worker in workers))
    assert (await pool.messages(run)).count(TAKEN_OVER) == 1


async def test_where_the_first_by_name_does_nothing_the_next_does(pool: Pool) -> None:
    run = await pool.run(Pending(message=CLAIM), Running())
    # It sends heartbeats, and no more.
    idle, worker = pool.worker("a first"), pool.worker("one")
    idle.look = _nothing  # type: ignore[method-assign]
    assert await pool.pass_by(PATIENCE + 20, idle, worker) == []
    assert await pool.pass_by(STEP, idle, worker) == [f"{run.id}: its host its-host is silent"]


async def _nothing() -> list[str]:
    return []


async def test_what_one_left_half_done_the_next_does(pool: Pool) -> None:
    run = await pool.run(Pending(message=CLAIM), Running())
    # Its taker died between the fence and the state.
    await pool.client.update_flow_run_labels(run.id, {FENCE_LABEL: 1})
    assert await pool.pass_by(PATIENCE + 20, pool.worker("one")) != []
    found, now = await pool.read(run)
    assert (now.message, fence_of(found)) == (TAKEN_OVER, 2)


async def test_a_run_that_somebody_cancels_while_its_host_is_silent_becomes_cancelled(
    pool: Pool,
) -> None:
    run = await pool.run(Pending(message=CLAIM), Running(), Cancelling())
    assert await pool.pass_by(PATIENCE + 20, pool.worker("one")) != []
    assert (await pool.read(run))[1].is_cancelled()


async def test_a_run_without_starts_left_crashes(pool: Pool) -> None:
    run = await pool.run(Pending(message=CLAIM), Running(), infrastructure=0)
    assert await pool.pass_by(PATIENCE + 20, pool.worker("one")) != []
    assert (await pool.read(run))[1].is_crashed()


async def test_a_run_that_a_living_worker_has_claimed_is_left_to_it_whatever_its_labels_say(
    pool: Pool,
) -> None:
    run = await pool.run(Pending(message=claim_message("alive", "host-alive")))
    alive, worker = pool.worker("alive"), pool.worker("one")
    assert await pool.pass_by(PATIENCE + 60, alive, worker) == []
    assert (await pool.read(run))[1].is_pending()


async def test_after_an_absence_of_the_server_nobody_counts_as_silent(pool: Pool) -> None:
    await pool.run(Pending(message=CLAIM), Running())
    worker = pool.worker("one")
    assert await pool.pass_by(PATIENCE, worker) == []
    pool.now += 40
    assert await pool.pass_by(PATIENCE, worker) == []


async def test_a_run_that_waits_for_a_silent_host_may_go_to_another_and_one_that_ended_does_anyway(
    pool: Pool,
) -> None:
    handed_over: State[Any] = AwaitingRetry(message=HANDED_OVER)
    begun: list[State[Any]] = [Pending(message=CLAIM), Running()]
    waiting, ended = await pool.run(*begun, handed_over), await pool.run(*begun, Completed())
    retry: State[Any] = AwaitingRetry()
    await pool.client.set_flow_run_state(ended.id, retry)
    told = await pool.pass_by(PATIENCE + 2 * STEP, pool.worker("one"))
    assert told == [f"{waiting.id}: its host its-host is silent"]
    assert (await pool.messages(waiting)).count(TAKEN_OVER) == 1


async def test_the_runs_of_its_own_host_are_left_to_its_sweep(pool: Pool) -> None:
    run = await pool.run(Pending(message=CLAIM), Running())
    await pool.client.update_flow_run_labels(run.id, {HOST_LABEL: "host-one"})
    assert await pool.pass_by(PATIENCE + 60, pool.worker("one")) == []
