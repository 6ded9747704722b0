"""Runs in this process, on a real API: what becomes of them, and what their threads share."""

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Completed,
    Failed,
    Pending,
    Running,
)
from prefect.workers.base import BaseJobConfiguration

from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.history import HANDED_OVER
from flows.runtime.run_states import HOST_LABEL
from flows.runtime.store import AttemptStore, known_jobs
from flows.settings import HostSettings
from flows.worker.claim import claim
from flows.worker.in_process import InProcessRunner, NotOurs
from flows.worker.run_threads import RunThreads
from flows.worker.worker import ContainerTaskWorker
from tests.finished import finished
from tests.runs import shell

LOGGER = logging.getLogger(__name__)
# Refused by the flow, so that it needs no engine.
NOTHING_RAN = "canceled before its container ran"
REFUSED = {"task": {"container": {"enabled": False}}}


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


@pytest.fixture
async def in_process() -> AsyncIterator[InProcessRunner]:
    runner = InProcessRunner()
    yield runner
    runner.close()


async def submitted(client: PrefectClient, payload: object = REFUSED) -> FlowRun:
    flow_id = await client.create_flow_from_name("of a test")
    entrypoint = "flows.container_task.container_task"
    deployment_id = await client.create_deployment(flow_id, name=entrypoint, entrypoint=entrypoint)
    pending: State[Any] = Pending()
    return await client.create_flow_run_from_deployment(
        deployment_id, parameters={"payload": payload}, state=pending
    )


async def final(client: PrefectClient, run_id: UUID) -> str:
    state = (await client.read_flow_run(run_id)).state
    assert state is not None
    return str(state.name)


async def test_a_payload_is_checked_by_the_flow_in_a_thread_of_its_own(
    client: PrefectClient, in_process: InProcessRunner
) -> None:
    run = await submitted(client)
    await in_process.run(client, run, Cancellation(), LOGGER)
    assert await final(client, run.id) == "Rejected"


async def test_a_run_that_is_cancelled_before_its_flow_listens_does_not_stay_cancelling(
    client: PrefectClient, in_process: InProcessRunner
) -> None:
    run = await submitted(client)
    cancellation = Cancellation()
    cancellation.request(Reason.CANCEL)
    await client.set_flow_run_state(run.id, Cancelling(), force=True)
    await in_process.run(client, run, cancellation, LOGGER)
    assert await final(client, run.id) == "Cancelled"


async def test_a_run_that_is_cancelled_while_it_is_pending_is_told_as_one_that_ran_nothing(
    client: PrefectClient, in_process: InProcessRunner
) -> None:
    run = await submitted(client)
    store = AttemptStore(HostSettings().workdir, str(run.id))
    # What somebody asked for before has nothing to do with it.
    finished(HostSettings().workdir, job_id=str(run.id))
    before = store.attempts()
    await client.set_flow_run_state(run.id, Cancelling())
    await in_process.run(client, run, Cancellation(), LOGGER)
    state = (await client.read_flow_run(run.id)).state
    assert state is not None
    assert (state.name, state.message) == ("Cancelled", NOTHING_RAN)
    assert store.attempts() == before


@pytest.mark.parametrize("said", [Failed, Completed, Cancelled])
async def test_a_final_state_that_somebody_sets_before_the_flow_begins_stands(
    client: PrefectClient, in_process: InProcessRunner, said: Callable[..., State[Any]]
) -> None:
    run = await submitted(client)
    await client.set_flow_run_state(run.id, said(message="I say so"))
    await in_process.run(client, run, Cancellation(), LOGGER)
    state = (await client.read_flow_run(run.id)).state
    assert state is not None
    assert state.message == "I say so"


@pytest.mark.parametrize("said", [Failed, Completed])
async def test_a_final_state_that_a_claim_came_after_is_set_again_and_nothing_begins(
    client: PrefectClient, in_process: InProcessRunner, said: Callable[..., State[Any]]
) -> None:
    run = await submitted(client)
    await client.set_flow_run_state(run.id, said(message="I say so"))
    # The server lets a claim pass whose worker had asked before that was said.
    assert await claim(client, run, "Claimed by a test on this host") is None
    assert await final(client, run.id) == "Pending"
    await in_process.run(client, run, Cancellation(), LOGGER)
    state = (await client.read_flow_run(run.id)).state
    assert state is not None
    assert (state.type, state.message) == (said().type, "I say so")


async def test_a_run_that_waits_for_another_host_is_put_back_where_a_claim_came_late(
    client: PrefectClient, in_process: InProcessRunner
) -> None:
    run = await submitted(client)
    waits: State[Any] = AwaitingRetry(message=HANDED_OVER)
    for state in (Running(), waits):
        await client.set_flow_run_state(run.id, state)
    await client.update_flow_run_labels(run.id, {HOST_LABEL: "another-host"})
    run = await client.read_flow_run(run.id)
    assert await claim(client, run, "Claimed by a test on this host") is None
    await in_process.run(client, run, Cancellation(), LOGGER)
    now = (await client.read_flow_run(run.id)).state
    assert now is not None
    assert (now.name, now.message) == (waits.name, waits.message)


async def test_a_run_that_is_cancelled_as_it_ends_does_not_stay_cancelling(
    client: PrefectClient, in_process: InProcessRunner
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as git:
        repository = f"git://127.0.0.1:{git.getsockname()[1]}/a"
        run = await submitted(client, shell("true") | {"repository": repository})
        running = asyncio.ensure_future(in_process.run(client, run, Cancellation(), LOGGER))
        fetch, _ = await asyncio.to_thread(git.accept)
        await client.set_flow_run_state(run.id, Cancelling(), force=True)
        # The flow is not told, and ends as one whose repository cannot be had.
        fetch.close()
    await running
    state = (await client.read_flow_run(run.id)).state
    assert state is not None
    assert (state.name, state.message) == ("Cancelled", NOTHING_RAN)


async def test_a_deployment_that_was_deleted_names_no_flow(
    client: PrefectClient, in_process: InProcessRunner
) -> None:
    run = await submitted(client)
    assert run.deployment_id is not None
    await client.delete_deployment(run.deployment_id)
    with pytest.raises(NotOurs, match="was deleted"):
        await in_process.run(client, run, Cancellation(), LOGGER)


async def test_a_run_that_somebody_deleted_ends_and_nothing_else_does(
    client: PrefectClient, in_process: InProcessRunner
) -> None:
    run = await submitted(client)
    await client.delete_flow_run(run.id)
    await in_process.run(client, run, Cancellation(), LOGGER)
    assert str(run.id) in known_jobs(HostSettings().workdir), "noted before the flow's first step"
    after = await submitted(client)
    await in_process.run(client, after, Cancellation(), LOGGER)
    assert await final(client, after.id) == "Rejected"


async def test_a_run_without_a_deployment_is_not_ours(
    client: PrefectClient, in_process: InProcessRunner
) -> None:
    run = await submitted(client)
    with pytest.raises(NotOurs, match="no deployment"):
        await in_process.run(
            client, run.model_copy(update={"deployment_id": None}), Cancellation(), LOGGER
        )


@pytest.fixture
async def threads(prefect_api: None) -> AsyncIterator[RunThreads]:
    threads = RunThreads()
    yield threads
    threads.close()


async def clients() -> tuple[PrefectClient, SyncPrefectClient]:
    return get_client(), get_client(sync_client=True)


async def test_a_thread_keeps_its_client_for_the_next_run(threads: RunThreads) -> None:
    first, second = await threads.run(clients), await threads.run(clients)
    assert first[0] is second[0]


async def test_threads_share_one_blocking_client_which_is_open(threads: RunThreads) -> None:
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


async def test_a_thread_that_cannot_have_a_loop_says_so_to_whoever_waits_for_its_first_job(
    threads: RunThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_loop() -> asyncio.Runner:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "Runner", no_loop)
        async with asyncio.timeout(20):
            with pytest.raises(OSError, match="Too many open files"):
                await threads.run(clients)
    assert (await threads.run(clients))[0] is not None


async def test_a_run_that_prefect_submits_itself_is_known_and_cancelled_as_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, seen = ContainerTaskWorker(work_pool_name="any"), []
    run = FlowRun(flow_id=uuid4(), state=Cancelling())

    class Server:
        async def read_flow_runs(self, **_: object) -> list[FlowRun]:
            return [run]

    class Runner:
        async def run(
            self, _client: object, flow_run: FlowRun, cancellation: Cancellation, _logger: object
        ) -> None:
            await worker._reconciler.look()
            seen.append((cancellation.reason, worker._is_running(str(flow_run.id))))

    monkeypatch.setattr(worker, "_runner", Runner())
    monkeypatch.setattr(worker, "_client", Server())
    await worker.run(run, BaseJobConfiguration())
    assert seen == [(Reason.CANCEL, True)]
    assert not worker._is_running(str(run.id))
