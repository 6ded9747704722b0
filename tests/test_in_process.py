"""Runs carried in this process, on a real API: what becomes of those that cannot go on."""

import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelling, Completed, Scheduled

from flows.payload.parse import parse
from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.store import known_jobs
from flows.settings import HostSettings
from flows.worker.in_process import BrokenOff, InProcessRunner, NotOurs

LOGGER = logging.getLogger(__name__)
# Refused by the flow, so that it needs no engine.
TASK = {"task": {"container": {"enabled": False}}}


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


@pytest.fixture
async def in_process() -> AsyncIterator[InProcessRunner]:
    runner = InProcessRunner()
    yield runner
    runner.close()


async def submitted(client: PrefectClient, entrypoint: str) -> FlowRun:
    flow_id = await client.create_flow_from_name("of a test")
    deployment_id = await client.create_deployment(flow_id, name=entrypoint, entrypoint=entrypoint)
    scheduled: State[Any] = Scheduled()
    return await client.create_flow_run_from_deployment(
        deployment_id, parameters={"payload": TASK}, state=scheduled
    )


async def final(client: PrefectClient, run_id: UUID) -> str:
    state = (await client.read_flow_run(run_id)).state
    assert state is not None
    return str(state.name)


async def test_a_payload_is_judged_by_the_flow_in_a_thread_of_its_own(
    client: PrefectClient, in_process: InProcessRunner
) -> None:
    run = await submitted(client, "flows.container_task.container_task")
    await in_process.run(client, run, Cancellation(), LOGGER)
    assert await final(client, run.id) == "Rejected"


async def test_a_run_that_is_cancelled_before_its_flow_listens_does_not_stay_cancelling(
    client: PrefectClient, in_process: InProcessRunner
) -> None:
    run = await submitted(client, "flows.container_task.container_task")
    cancellation = Cancellation()
    cancellation.request(Reason.CANCEL)
    await client.set_flow_run_state(run.id, Cancelling(), force=True)
    await in_process.run(client, run, cancellation, LOGGER)
    assert await final(client, run.id) == "Cancelled"


async def test_a_run_that_is_cancelled_as_it_ends_does_not_stay_cancelling(
    client: PrefectClient, in_process: InProcessRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await submitted(client, "flows.container_task.container_task")

    async def cancelled_meanwhile(payload: object, job: object) -> None:
        async with get_client() as another:
            await another.set_flow_run_state(run.id, Cancelling(), force=True)
        parse(payload)

    monkeypatch.setattr("flows.container_task.prepare_attempt", cancelled_meanwhile)
    monkeypatch.setattr("flows.container_task._final_state", lambda _: Completed())
    await in_process.run(client, run, Cancellation(), LOGGER)
    state = (await client.read_flow_run(run.id)).state
    assert state is not None
    assert (state.name, state.message) == (
        "Cancelled",
        "canceled as it ended: its report tells what became of its container",
    )


async def test_a_deployment_that_was_deleted_names_no_flow(
    client: PrefectClient, in_process: InProcessRunner
) -> None:
    run = await submitted(client, "flows.container_task.container_task")
    assert run.deployment_id is not None
    await client.delete_deployment(run.deployment_id)
    with pytest.raises(NotOurs, match="was deleted"):
        await in_process.run(client, run, Cancellation(), LOGGER)


async def test_a_run_that_somebody_deleted_breaks_off_and_nothing_else_does(
    client: PrefectClient, in_process: InProcessRunner
) -> None:
    run = await submitted(client, "flows.container_task.container_task")
    await client.delete_flow_run(run.id)
    with pytest.raises(BrokenOff, match="not found"):
        await in_process.run(client, run, Cancellation(), LOGGER)
    assert str(run.id) in known_jobs(HostSettings().workdir), "noted before the flow's first step"
    after = await submitted(client, "flows.container_task.container_task")
    await in_process.run(client, after, Cancellation(), LOGGER)
    assert await final(client, after.id) == "Rejected"


async def test_a_run_without_a_deployment_is_not_ours(
    client: PrefectClient, in_process: InProcessRunner
) -> None:
    run = await submitted(client, "flows.container_task.container_task")
    with pytest.raises(NotOurs, match="no deployment"):
        await in_process.run(
            client, run.model_copy(update={"deployment_id": None}), Cancellation(), LOGGER
        )
