"""What a process finds that another one left: neither done twice, nor ended under its feet."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.flow_engine import run_flow
from prefect.states import AwaitingRetry

from flows.container_task import container_task
from flows.runtime.context import Job
from flows.runtime.driver import drive
from flows.runtime.steps import let_go
from flows.runtime.store import AttemptStore
from tests.runs import Finished, Runner, left_on_engine, shell

pytestmark = pytest.mark.docker
LOGGER = logging.getLogger(__name__)
TASK = shell("echo once; exit 3")


def inherit(jobs_folder: Path, done: Finished, job_id: str) -> AttemptStore:
    """The attempt store of `job_id`, with what became of another run."""
    runs = jobs_folder / ".runs"
    shutil.copy(runs / f"{done.job_id}.json", runs / f"{job_id}.json")
    return AttemptStore(jobs_folder, job_id)


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
    assert len(AttemptStore(jobs_folder, str(run.id)).attempts()) == 2


async def test_a_run_that_somebody_else_has_put_back_into_its_queue_is_left_alone(
    runner: Runner, jobs_folder: Path
) -> None:
    done = await runner(TASK)
    async with get_client() as client:
        flow_id = await client.create_flow(container_task)
        deployment = await client.create_deployment(flow_id, name=f"recovered-{uuid4()}")
        run = await client.create_flow_run_from_deployment(deployment, parameters={"payload": TASK})
    store = inherit(jobs_folder, done, str(run.id))
    before = store.attempts()
    async with get_client() as client:
        assert await drive(Job(store, LOGGER), client) == []
        assert store.attempts() == before
        state = (await client.read_flow_run(run.id)).state
    assert state is not None
    assert state.is_scheduled()


async def taken_up(store: AttemptStore, job_id: str) -> str:
    """The name of the state to which the flow brings a run that has this attempt store."""
    async with get_client() as client:
        run = await client.read_flow_run(UUID(job_id))
    state = await run_flow(container_task, flow_run=run, return_type="state")  # type: ignore[misc]
    assert left_on_engine(job_id) == []
    return state.name or ""


async def submitted() -> str:
    async with get_client() as client:
        return str((await client.create_flow_run(container_task, parameters={"payload": TASK})).id)


async def test_a_log_whose_process_died_before_it_was_moved_is_moved_and_published(
    runner: Runner, jobs_folder: Path
) -> None:
    done, job_id = await runner(TASK), await submitted()
    log = done.file("container/logs/runner.log")
    log.rename(jobs_folder / ".runs" / f"{done.job_id}.runner.log")
    store = inherit(jobs_folder, done, job_id)
    newest = store.last()
    assert newest is not None
    store.put(replace(newest, published=False))
    assert await taken_up(store, job_id) == "Failed"
    assert log.read_text() == "once\n"
    assert "container/logs/runner.log" in {each["path"] for each in done.run_json["artifacts"]}


async def test_a_run_that_comes_back_to_a_host_that_let_it_go_is_run_there_anew(
    runner: Runner, jobs_folder: Path
) -> None:
    done, job_id = await runner(TASK), await submitted()
    store = inherit(jobs_folder, done, job_id)
    newest = store.last()
    assert newest is not None
    store.put(replace(newest, began=True, executed=None, published=False))
    live = jobs_folder / ".runs" / f"{done.job_id}.runner.log"
    live.write_text("of this host\n")
    await let_go(Job(store, LOGGER), replace(newest, began=True, executed=None, published=False))
    assert (done.file("container/logs/runner.log").read_text(), live.exists()) == (
        "of this host\n",
        False,
    )
    assert await taken_up(store, job_id) == "Failed"
    assert [each.prepared.spec.attempt for each in store.attempts()] == [1, 2]
    (first, second) = store.attempts()
    assert (first.outcome.name, second.outcome.exit_code) == ("infrastructure", 3)


async def test_an_attempt_that_an_earlier_version_decided_and_never_began_is_decided_anew(
    runner: Runner, jobs_folder: Path
) -> None:
    done, job_id = await runner(TASK), await submitted()
    store = inherit(jobs_folder, done, job_id)
    file = jobs_folder / ".runs" / f"{job_id}.json"
    (attempt,) = json.loads(file.read_text())
    attempt |= {"began": False, "executed": None, "published": False}
    del attempt["prepared"]["policy"], attempt["upload"]
    spec = attempt["prepared"]["spec"] | {"job_id": job_id, "allowed_volumes": []}
    for key in ("cap_drop", "cap_add", "secrets", "network", "user", "platform"):
        del spec[key]
    attempt["prepared"]["spec"] = spec
    file.write_text(json.dumps([attempt]))
    assert await taken_up(store, job_id) == "Failed"
    assert store.attempts()[-1].outcome.exit_code == 3
