"""What a process finds that another one left: neither done twice, nor ended under its feet."""

import logging
import shutil
from pathlib import Path
from uuid import uuid4

import pytest
from prefect import get_client
from prefect.flow_engine import run_flow
from prefect.states import AwaitingRetry

from flows.container_task import container_task
from flows.ledger import Ledger
from flows.recovery import recover
from tests.runs import Finished, Runner, shell

pytestmark = pytest.mark.docker
LOGGER = logging.getLogger(__name__)
TASK = shell("echo once; exit 3")


def inherit(jobs_folder: Path, done: Finished, job_id: str) -> Ledger:
    """The ledger of `job_id`, with what became of another run."""
    runs = jobs_folder / ".runs"
    shutil.copy(runs / f"{done.job_id}.json", runs / f"{job_id}.json")
    return Ledger(jobs_folder, job_id)


async def test_a_run_that_died_before_its_end_was_told_is_not_run_again(
    runner: Runner, jobs_folder: Path
) -> None:
    done = await runner(TASK)
    async with get_client() as client:
        run = await client.create_flow_run(container_task, parameters={"payload": TASK})
    inherit(jobs_folder, done, str(run.id))
    state = await run_flow(container_task, flow_run=run, return_type="state")  # type: ignore[misc]
    assert state.name == "Failed"
    assert state.message == done.message
    assert not (jobs_folder / str(run.id)).exists(), "nothing was prepared"


async def test_a_run_that_ended_and_is_started_again_by_hand_runs_again(
    runner: Runner, jobs_folder: Path
) -> None:
    async with get_client() as client:
        run = await client.create_flow_run(container_task, parameters={"payload": TASK})
        for _ in range(2):
            await run_flow(container_task, flow_run=run, return_type="state")  # type: ignore[misc]
            await client.set_flow_run_state(run.id, AwaitingRetry(), force=True)
            run = await client.read_flow_run(run.id)
    assert len(Ledger(jobs_folder, str(run.id)).attempts()) == 2


async def test_a_run_that_somebody_else_has_put_back_into_its_queue_is_left_alone(
    runner: Runner, jobs_folder: Path
) -> None:
    done = await runner(TASK)
    async with get_client() as client:
        flow_id = await client.create_flow(container_task)
        deployment = await client.create_deployment(flow_id, name=f"recovered-{uuid4()}")
        run = await client.create_flow_run_from_deployment(deployment, parameters={"payload": TASK})
    ledger = inherit(jobs_folder, done, str(run.id))
    before = ledger.attempts()
    await recover(run.id, ledger, LOGGER)
    assert ledger.attempts() == before
    async with get_client() as client:
        state = (await client.read_flow_run(run.id)).state
    assert state is not None
    assert state.is_scheduled()
