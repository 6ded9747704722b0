"""A worker whose server is away: it waits, and asks again."""

import asyncio
import json
import logging
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.utilities.services import critical_service_loop
from websockets.asyncio.server import ServerConnection, serve

from flows.worker.services import follow_pool
from flows.worker.worker import ContainerTaskWorker
from scripts.stack import free_port
from tests.runs import until_async


async def test_a_worker_outlives_every_failure_of_its_heartbeats(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What it sets of its process and does on its host is not for the process of the tests.
    monkeypatch.setenv("MOONMIND_WORKDIR", str(tmp_path))
    monkeypatch.setattr("flows.worker.services.allow_descriptors", lambda _: None)
    monkeypatch.setattr("flows.worker.services.cancel_on_sigterm", lambda *_: None)
    nobody = {
        PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api",
        PREFECT_CLIENT_MAX_RETRIES: 0,
    }
    with temporary_settings(nobody), caplog.at_level(logging.WARNING):
        async with ContainerTaskWorker(work_pool_name="any", name="alone") as worker:
            # As Prefect calls it, but for the pauses.
            beating = asyncio.create_task(critical_service_loop(worker._sync_and_initialize, 0))
            await until_async(lambda: caplog.text.count("Could not send a heartbeat") > 5)
            assert not beating.done()
            beating.cancel()


async def test_events_are_asked_for_soon_after_each_break_however_many_there_were(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connected = 0

    async def close_at_once(socket: ServerConnection) -> None:
        """As a server does that is told to end."""
        await socket.recv()
        await socket.send(json.dumps({"type": "auth_success"}))
        await socket.recv()

    def on_work() -> None:
        nonlocal connected
        connected += 1

    async with serve(close_at_once, "127.0.0.1", 0, subprotocols=["prefect"]) as server:  # type: ignore[list-item]
        port = server.sockets[0].getsockname()[1]
        address = {PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}
        with temporary_settings(address), caplog.at_level(logging.WARNING):
            following = asyncio.create_task(follow_pool(uuid4(), on_work, lambda _: None))
            await until_async(lambda: connected == 4)
            following.cancel()
    said = [each.getMessage() for each in caplog.records if "No events" in each.msg]
    assert [each.rpartition(" in ")[2] for each in said[:3]] == ["0.5 s"] * 3
