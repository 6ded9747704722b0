"""Claims of flow runs, as a real Prefect server takes and refuses them."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Completed,
    Crashed,
    Failed,
    Pending,
    Running,
    Scheduled,
)

from flows.runtime.api_client import RunClientContext
from flows.runtime.history import GIVEN_BACK
from flows.worker.claim import claim, give_back

OURS, THEIRS = "Claimed by one on host-1", "Claimed by two on host-2"


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with RunClientContext():
        yield get_client()


async def scheduled(client: PrefectClient) -> FlowRun:
    flow_id = await client.create_flow_from_name("of a test")
    deployment_id = await client.create_deployment(flow_id, name="claimed")
    waiting: State[Any] = Scheduled()
    return await client.create_flow_run_from_deployment(deployment_id, state=waiting)


async def state_of(client: PrefectClient, run: FlowRun) -> State[Any]:
    state = (await client.read_flow_run(run.id)).state
    assert state is not None
    return state


async def test_of_two_workers_one_gets_the_run(client: PrefectClient) -> None:
    run = await scheduled(client)
    assert await claim(client, run, OURS) is None
    assert await claim(client, run, THEIRS) == "This run has already made this state transition."
    assert (await state_of(client, run)).message == OURS


async def test_a_claim_whose_answer_was_lost_is_known_as_ones_own(client: PrefectClient) -> None:
    run = await scheduled(client)
    assert [await claim(client, run, OURS) for _ in range(2)] == [None, None]


@pytest.mark.parametrize("end", [Completed, Failed, Cancelled], ids=lambda end: end.__name__)
async def test_a_claim_that_comes_after_the_runs_end_is_refused_until_somebody_retries_it(
    client: PrefectClient, end: Callable[[], State[Any]]
) -> None:
    run = await scheduled(client)
    await claim(client, run, THEIRS)
    await client.set_flow_run_state(run.id, Running())
    await client.set_flow_run_state(run.id, end())
    assert await claim(client, run, OURS) is not None
    assert (await state_of(client, run)).type is end().type
    await client.set_flow_run_state(run.id, AwaitingRetry())
    assert await claim(client, run, OURS) is None


async def test_the_first_final_state_of_a_run_stands(client: PrefectClient) -> None:
    run = await scheduled(client)
    await claim(client, run, OURS)
    await client.set_flow_run_state(run.id, Running())
    await client.set_flow_run_state(run.id, Completed())
    await client.set_flow_run_state(run.id, Failed())
    assert (await state_of(client, run)).is_completed()


@pytest.mark.parametrize("end", [Failed, Cancelled, Crashed], ids=lambda end: end.__name__)
async def test_a_run_may_end_before_it_began(
    client: PrefectClient, end: Callable[[], State[Any]]
) -> None:
    run = await scheduled(client)
    await claim(client, run, OURS)
    await client.set_flow_run_state(run.id, end())
    assert (await state_of(client, run)).type is end().type


async def test_of_two_processes_that_claimed_one_after_the_other_one_begins(
    client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await scheduled(client)
    running: State[Any] = Running()
    await claim(client, run, THEIRS)
    await client.set_flow_run_state(run.id, Scheduled())
    await claim(client, run, OURS)
    begun = [(await client.set_flow_run_state(run.id, running)).status for _ in range(2)]
    assert begun == ["ACCEPT", "REJECT"], "asked again, it is one's own"
    monkeypatch.setenv("MOONMIND_WORKER_NAME", "host-2")
    assert (await client.set_flow_run_state(run.id, running)).status == "ABORT"


async def test_a_deleted_run_is_nobodys(client: PrefectClient) -> None:
    run = await scheduled(client)
    await client.delete_flow_run(run.id)
    assert await claim(client, run, OURS) == "it was deleted"
    assert not await give_back(client, run, OURS)


async def test_what_is_given_back_has_its_old_place_in_its_queue(client: PrefectClient) -> None:
    run = await scheduled(client)
    await claim(client, run, OURS)
    assert await give_back(client, run, OURS)
    now = await client.read_flow_run(run.id)
    assert now.state is not None
    assert (now.state.name, now.state.message) == ("Scheduled", GIVEN_BACK)
    assert now.next_scheduled_start_time == run.next_scheduled_start_time


@pytest.mark.parametrize("state", [Pending(message=THEIRS), Running()], ids=["theirs", "running"])
async def test_only_ones_own_that_has_not_begun_is_given_back(
    client: PrefectClient, state: State[Any]
) -> None:
    run = await scheduled(client)
    await client.set_flow_run_state(run.id, state)
    assert not await give_back(client, run, OURS)
    assert (await state_of(client, run)).type is state.type
