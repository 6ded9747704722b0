"""What a worker claims from a pool of a real server, and what it leaves to others."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate, WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import AwaitingRetry, Completed, Failed, Running, Scheduled

from flows.engine.contract import Engine
from flows.errors import EngineUnavailable
from flows.runtime.api_client import RunClientContext
from flows.runtime.history import GIVEN_BACK, HANDED_OVER
from flows.runtime.run_states import HOST_LABEL
from flows.settings import HostSettings
from flows.units import Resources
from flows.worker.claim import claim
from flows.worker.claims import Claimant, ClaimedRun, ClaimLoop
from flows.worker.gate import EngineGate
from flows.worker.queue import PoolQueues
from tests.runs import shell, until_async

LOGGER = logging.getLogger(__name__)
GPU = shell("true") | {"requiredCapabilities": ["gpu"]}


class Engineer:
    """An engine that answers, until it is away."""

    is_away = False

    @asynccontextmanager
    async def opened(self, policy: object) -> AsyncIterator[Engine]:
        yield cast(Engine, self)

    async def ping(self) -> None:
        if self.is_away:
            raise EngineUnavailable("it is away")

    async def capacity(self) -> Resources:
        return Resources(4, 10 * 1024**3)


@dataclass
class Pool:
    """A pool of the server's, its deployments by their queues, and the workers of hosts."""

    client: PrefectClient
    folder: Path
    name: str = field(default_factory=lambda: f"pool-{uuid4()}")
    deployments: dict[str, UUID] = field(default_factory=dict)
    engine: Engineer = field(default_factory=Engineer)

    async def made(self, limit: int | None = None) -> "Pool":
        pool = WorkPoolCreate(name=self.name, type="container-task", concurrency_limit=limit)
        await self.client.create_work_pool(pool)
        await self.serve("default")
        return self

    async def serve(self, queue: str, limit: int | None = None) -> None:
        """Have a deployment whose runs go to this queue."""
        flow_id = await self.client.create_flow_from_name("of a test")
        self.deployments[queue] = await self.client.create_deployment(
            flow_id,
            name=f"{self.name}-{queue}",
            work_pool_name=self.name,
            work_queue_name=queue,
            concurrency_limit=limit,
        )

    async def submit(
        self, payload: object = None, seconds: float = -1, queue: str = "default", due: Any = None
    ) -> UUID:
        due = due or datetime.now(UTC) + timedelta(seconds=seconds)
        waiting: State[Any] = Scheduled(scheduled_time=due)
        parameters = {"payload": payload or shell("true")}
        run = await self.client.create_flow_run_from_deployment(
            self.deployments[queue], parameters=parameters, state=waiting
        )
        return run.id

    async def state(self, run_id: UUID) -> State[Any]:
        state = (await self.client.read_flow_run(run_id)).state
        assert state is not None
        return state

    def worker(self, host: str = "host-1", **settings: Any) -> "Worker":
        return Worker(self, host, **settings)


class Worker:
    """A claim loop whose runs go on until they are told to have begun, or ended."""

    def __init__(self, pool: Pool, host: str, limit: int | None = None, page: int = 200) -> None:
        settings = HostSettings(MOONMIND_WORKDIR=pool.folder / host, MOONMIND_WORKER_NAME=host)
        self.carried: list[UUID] = []
        self.claimed: dict[UUID, ClaimedRun] = {}
        self.message = f"Claimed by a worker on {host}"
        self.queues = PoolQueues(pool.client, pool.name, (), 10, page)
        who = Claimant(
            client=pool.client,
            host=settings,
            queues=self.queues,
            message=self.message,
            limit=limit,
            logger=LOGGER,
            run_logger=lambda _: LOGGER,
            carry=self._carry,
        )
        self.hours = 0
        gate = EngineGate(
            settings, LOGGER, pool.engine.opened, lambda: time.monotonic() + 3600 * self.hours
        )
        self.loop = ClaimLoop(who, self.claimed, gate)

    def _carry(self, claimed: ClaimedRun) -> bool:
        self.carried.append(claimed.flow_run.id)
        return True

    def begin_all(self) -> None:
        for each in self.claimed.values():
            each.begun.set()

    async def look(self) -> list[UUID]:
        """A turn with news; what it began."""
        before = len(self.carried)
        self.loop.wake()
        await self.loop.look()
        return self.carried[before:]


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with RunClientContext():
        yield get_client()


@pytest.fixture
async def pool(client: PrefectClient, tmp_path: Path) -> Pool:
    return await Pool(client, tmp_path).made()


async def test_runs_are_claimed_in_order_and_the_claim_says_by_whom(pool: Pool) -> None:
    runs = [await pool.submit(seconds=second) for second in (-3, -2, -1)]
    worker = pool.worker(limit=2)
    assert sorted(await worker.look()) == sorted(runs[:2])
    assert (await pool.state(runs[0])).message == "Claimed by a worker on host-1"
    assert await worker.look() == []


async def test_what_another_worker_ran_to_its_end_is_claimed_by_nobody(pool: Pool) -> None:
    needs = shell("true", resources={"cpus": 4})
    first, second = await pool.submit(needs), await pool.submit(needs)
    one, two = pool.worker("host-1"), pool.worker("host-2")
    assert await one.look() == [first], "the second waits for room on this host"
    assert await two.look() == [second]
    await pool.client.set_flow_run_state(second, Running())
    await pool.client.set_flow_run_state(second, Completed())
    one.loop.release(first)
    await one.loop.look()
    assert one.carried == [first]
    assert (await pool.state(second)).is_completed()


async def test_an_engine_that_is_away_claims_nothing_and_leaves_all_to_another_host(
    pool: Pool, client: PrefectClient
) -> None:
    runs = [await pool.submit() for _ in range(3)]
    worker = pool.worker()
    pool.engine.is_away = True
    assert await worker.look() == []
    pool.engine = Engineer()
    assert sorted(await pool.worker("host-2").look()) == sorted(runs)


async def test_an_engine_that_failed_some_in_a_row_is_given_one_however_many_wait(
    pool: Pool,
) -> None:
    for _ in range(3):
        await pool.submit()
    worker = pool.worker()
    for _ in range(3):
        worker.loop.gate.note_end(engine_failed=True)
    worker.hours += 1
    assert len(await worker.look()) == 1


async def test_a_burst_is_claimed_as_fast_as_it_begins(pool: Pool) -> None:
    runs = {await pool.submit() for _ in range(25)}
    worker = pool.worker()
    assert len(await worker.look()) == 20
    assert await worker.look() == []
    worker.begin_all()
    assert len(await worker.look()) == 5
    assert set(worker.carried) == runs


async def test_runs_that_are_due_later_take_no_place_and_their_time_is_known(
    pool: Pool, client: PrefectClient
) -> None:
    await client.create_work_queue("later", priority=9, work_pool_name=pool.name)
    await pool.serve("later")
    soon = [await pool.submit(seconds=9) for _ in range(3)]
    due = await pool.submit(queue="later")
    worker = pool.worker(limit=1)
    assert await worker.look() == [due]
    assert 0 < (worker.queues.seconds_to_next() or 0) <= 9
    assert (await pool.state(soon[0])).is_scheduled()


async def test_those_that_wait_hide_none_behind_them(pool: Pool) -> None:
    moment = datetime.now(UTC) - timedelta(minutes=1)
    # Two of the pages' size at one moment, as a backfill makes them.
    for _ in range(7):
        await pool.submit(GPU, due=moment)
    behind = await pool.submit()
    assert await pool.worker(page=3).look() == [behind]


async def test_those_that_wait_hide_no_other_queue(pool: Pool, client: PrefectClient) -> None:
    await client.create_work_queue("later", priority=9, work_pool_name=pool.name)
    await pool.serve("later")
    earlier = await pool.submit(seconds=-60, queue="later")
    for _ in range(4):
        await pool.submit(GPU)
    assert await pool.worker(page=3).look() == [earlier]


async def test_a_pools_limit_and_one_that_waits_hide_none(
    client: PrefectClient, tmp_path: Path
) -> None:
    pool = await Pool(client, tmp_path).made(limit=1)
    await pool.submit(GPU, seconds=-60)
    behind = await pool.submit()
    assert await pool.worker().look() == [behind]


async def test_the_next_is_claimed_as_soon_as_a_pools_limit_lets_it(
    client: PrefectClient, tmp_path: Path
) -> None:
    pool = await Pool(client, tmp_path).made(limit=1)
    first, second = await pool.submit(seconds=-2), await pool.submit()
    worker = pool.worker()
    assert await worker.look() == [first]
    await client.set_flow_run_state(first, Running())
    await client.set_flow_run_state(first, Completed())
    worker.loop.release(first)
    await worker.loop.look()
    assert worker.carried == [first, second], "without an event or a poll"


async def test_refused_claims_are_not_made_again_at_once(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pool.serve("refused", limit=1)
    deployment = await pool.client.read_deployment(pool.deployments["refused"])
    limit = deployment.global_concurrency_limit
    assert limit is not None
    none = GlobalConcurrencyLimitUpdate(limit=0)
    await pool.client.update_global_concurrency_limit(limit.name, none)
    refused = [await pool.submit(queue="refused") for _ in range(3)]
    worker, answers = pool.worker(), list[UUID]()
    monkeypatch.setattr("flows.worker.claims.claim", counted(answers))
    for _ in range(10):
        assert await worker.look() == []
    assert len(answers) < 10, "each once, and perhaps once more"
    assert {*answers} == {*refused}
    allowed = await pool.submit()
    assert await worker.look() == [allowed], "they hold up no other"


def counted(made: list[UUID]) -> Callable[..., Any]:
    """The real claim, which notes what it is made for."""

    async def noted(client: PrefectClient, run: FlowRun, message: str) -> str | None:
        made.append(run.id)
        return await claim(client, run, message)

    return noted


async def test_a_worker_that_is_told_to_stop_claims_nothing_more_and_gives_back_the_rest(
    pool: Pool,
) -> None:
    first = await pool.submit()
    worker = pool.worker()
    assert await worker.look() == [first]
    second = await pool.submit()
    worker.loop.stop()
    assert await worker.look() == []
    await worker.loop.give_back(worker.claimed[first].flow_run)
    assert (await pool.state(first)).message == GIVEN_BACK
    assert sorted(await pool.worker("host-2").look()) == sorted([first, second])


async def test_a_claim_whose_answer_never_came_is_given_back(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await pool.submit()
    worker, claims = pool.worker(), list[UUID]()
    real = counted(claims)

    async def without_answer(*words: Any) -> None:
        await real(*words)
        raise ConnectionResetError

    with monkeypatch.context() as cut:
        cut.setattr("flows.worker.claims.claim", without_answer)
        assert await worker.look() == []
    assert (await pool.state(run_id)).is_pending()
    pool.engine.is_away = True
    worker.loop.stop()
    await worker.look()
    assert (await pool.state(run_id)).message == GIVEN_BACK, "whatever it may claim itself"
    assert not worker.claimed


@pytest.mark.parametrize(
    ("states", "may_run_there"),
    [
        ([Running, Failed, AwaitingRetry], False),
        ([Running, lambda: AwaitingRetry(message=HANDED_OVER)], True),
    ],
    ids=["ended and retried by hand", "handed over"],
)
async def test_only_what_has_not_ended_on_another_host_is_left_to_it(
    pool: Pool, states: list[Callable[[], State[Any]]], may_run_there: bool
) -> None:
    run_id = await pool.submit()
    await pool.worker("host-1").look()
    for state in states:
        await pool.client.set_flow_run_state(run_id, state())
    await pool.client.update_flow_run_labels(run_id, {HOST_LABEL: "host-1"})
    assert await pool.worker("host-2").look() == ([] if may_run_there else [run_id])
    assert await pool.worker("host-1").look() == ([run_id] if may_run_there else [])


async def test_a_worker_looks_when_it_is_woken_and_when_a_run_is_due(pool: Pool) -> None:
    run_id = await pool.submit(seconds=1.5)
    worker = pool.worker()
    looking = asyncio.ensure_future(worker.loop.look_when_woken())
    try:
        worker.loop.wake()
        await until_async(lambda: worker.carried == [run_id], 60)
    finally:
        looking.cancel()
