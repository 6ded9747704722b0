"""Threads that carry runs: what each keeps, and what they share."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient, SyncPrefectClient

from flows.worker.in_process import RunThreads

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
async def threads() -> AsyncIterator[RunThreads]:
    threads = RunThreads()
    yield threads
    threads.close()


async def clients() -> tuple[PrefectClient, SyncPrefectClient]:
    return get_client(), get_client(sync_client=True)


async def test_a_lane_keeps_its_client_for_the_next_run(threads: RunThreads) -> None:
    first, second = await threads.run(clients), await threads.run(clients)
    assert first[0] is second[0]


async def test_lanes_share_one_blocking_client_which_is_open(threads: RunThreads) -> None:
    both = threading.Barrier(2)

    async def beside() -> tuple[PrefectClient, SyncPrefectClient]:
        both.wait(30)
        return await clients()

    first, second = await asyncio.gather(threads.run(beside), threads.run(beside))
    assert first[0] is not second[0]
    assert first[1] is second[1]
    assert first[1].hello().status_code == 200


async def test_what_a_run_raises_reaches_its_worker_and_the_next_run_goes_on(
    threads: RunThreads,
) -> None:
    async def fails() -> None:
        raise ValueError("of the run")

    with pytest.raises(ValueError, match="of the run"):
        await threads.run(fails)
    assert (await threads.run(clients))[0] is not None
