"""A worker that is started with `--run-once`: its services live as long as its runs."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_WORKER_QUERY_SECONDS, temporary_settings
from prefect.states import Cancelled, Cancelling, Completed, Running

from flows.runtime.cancellation import Cancellation
from flows.settings import HostSettings
from flows.worker.claims import ClaimLoop
from flows.worker.gate import EngineGate
from flows.worker.worker import ContainerTaskWorker
from tests.test_claim_loop import LOGGER, Engineer, Pool

# More than begin at once.
RUNS, BEGINNING = 4, 2


class Runs:
    """In the place of the flows: a person cancels the first when one other has ended, and the
    others end with it."""

    def __init__(self) -> None:
        self.first = ""
        self.is_over = asyncio.Event()

    async def run(
        self,
        client: PrefectClient,
        flow_run: FlowRun,
        cancellation: Cancellation,
        _: object,
        note_begun: Callable[[], None],
        before_begin: Callable[[], Awaitable[None]],
    ) -> None:
        await before_begin()
        is_first, self.first = not self.first, self.first or str(flow_run.id)
        await client.set_flow_run_state(flow_run.id, Running())
        if is_first:
            await client.set_flow_run_state(flow_run.id, Cancelling())
            while cancellation.reason is None:
                await asyncio.sleep(0.05)
            await client.set_flow_run_state(flow_run.id, Cancelled())
            self.is_over.set()
        await self.is_over.wait()
        if not is_first:
            await client.set_flow_run_state(flow_run.id, Completed())

    def close(self) -> None:
        """It has no threads."""


async def nothing(*_: Any) -> None:
    """In the place of the sweep: others use the engine as well."""


async def test_its_services_live_until_nothing_is_left_to_run(
    prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONMIND_WORKDIR", str(tmp_path))
    monkeypatch.setattr("flows.worker.services.sweep_every_minute", nothing)
    for name in ("allow_descriptors", "cancel_on_sigterm"):
        monkeypatch.setattr(f"flows.worker.services.{name}", lambda *_: None)
    monkeypatch.setattr("flows.worker.claims._BEGINNING", BEGINNING)
    gate = EngineGate(HostSettings.from_environment(), LOGGER, Engineer().opened)
    monkeypatch.setattr("flows.worker.worker.ClaimLoop", partial(ClaimLoop, gate=gate))
    async with get_client() as client:
        pool = await Pool(client, tmp_path).made()
        submitted = [await pool.submit(seconds=-60) for _ in range(RUNS)]
        with temporary_settings({PREFECT_WORKER_QUERY_SECONDS: 0.5}):
            worker = ContainerTaskWorker(work_pool_name=pool.name, name="once")
            monkeypatch.setattr(worker, "_runner", Runs())
            async with asyncio.timeout(120):
                await worker.start(run_once=True)
        names = [(await pool.state(each)).name or "" for each in submitted]
    assert sorted(names) == ["Cancelled", *["Completed"] * (RUNS - 1)]
