"""Threads that carry runs: what each keeps, and what they share."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient, SyncPrefectClient

from flows.worker.in_process import Lanes

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
async def lanes() -> AsyncIterator[Lanes]:
    lanes = Lanes()
    yield lanes
    lanes.close()


async def clients() -> tuple[PrefectClient, SyncPrefectClient]:
    return get_client(), get_client(sync_client=True)


async def test_a_lane_keeps_its_client_for_the_next_run(lanes: Lanes) -> None:
    first, second = await lanes.carry(clients), await lanes.carry(clients)
    assert first[0] is second[0]


async def test_lanes_share_one_blocking_client_which_is_open(lanes: Lanes) -> None:
    both = threading.Barrier(2)

    async def beside() -> tuple[PrefectClient, SyncPrefectClient]:
        both.wait(30)
        return await clients()

    first, second = await asyncio.gather(lanes.carry(beside), lanes.carry(beside))
    assert first[0] is not second[0]
    assert first[1] is second[1]
    assert first[1].hello().status_code == 200


async def test_what_a_run_raises_reaches_its_worker_and_the_next_run_goes_on(lanes: Lanes) -> None:
    async def fails() -> None:
        raise ValueError("of the run")

    with pytest.raises(ValueError, match="of the run"):
        await lanes.carry(fails)
    assert (await lanes.carry(clients))[0] is not None
