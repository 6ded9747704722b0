"""The sweep, in this process, among objects that are ours, expired, foreign or somebody's else."""

import logging
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType

from flows.container_task import container_task
from flows.orphans import reap_orphans
from flows.runtime.store import AttemptStore, known_jobs, open_jobs
from flows.settings import HostSettings
from flows.worker.sweep import SweptHost, sweep
from tests.runs import BUSYBOX, Runner, shell

pytestmark = pytest.mark.docker
LOGGER = logging.getLogger(__name__)
NOW = datetime.now(UTC)
# The clock of the sweep that is tested: what is past its date for that is not so for the sweeps of
# workers that other tests run on the same engine.
AHEAD = timedelta(hours=2)


def docker(*words: str) -> str:
    """What the command says, which succeeds."""
    return subprocess.run(
        ["docker", *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def container(image: str, *options: str, job: str = "", expires: datetime) -> str:
    """A running container; one of a `job` is as the runner makes it."""
    ours = [f"--label=moonmind.job_id={job}", f"--name=mm-task-{job}-1"] if job else []
    folder = f"--volume=/tmp:/work/agent_jobs/{job}:ro" if job else "--volume=/work"
    date = f"--label=moonmind.expires_at={expires.isoformat()}"
    return docker("run", "--detach", *ours, folder, date, *options, image, "sleep", "300")


def exists(name: str) -> bool:
    """Whether there is a container, a volume or a network of this name or id."""
    command = ["docker", "inspect", name]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def engine_objects() -> Iterator[dict[str, str]]:
    """A container and a volume past their date, one before it of a run that this server does not
    know, and what others have on the engine: without a job, or with labels that an image or a
    person handed on."""
    past, future = NOW + AHEAD - timedelta(hours=1), NOW + AHEAD + timedelta(hours=1)
    job, name = str(uuid4()), f"sweep-test-{uuid4().hex}"
    labels = (f"--label=moonmind.job_id={job}", f"--label=moonmind.expires_at={past.isoformat()}")
    found = {
        "expired": container(BUSYBOX, job=job, expires=past),
        "its volume": docker("volume", "create", *labels, f"mm-task-{job}-1-workspace"),
        "elsewhere": container(BUSYBOX, job=str(uuid4()), expires=future),
        "foreign": container(BUSYBOX, expires=past),
    }
    docker("commit", found["expired"], name)
    found |= {
        "of an image of a task": container(name, expires=past),
        # As an image's own VOLUME would make it.
        "and named after it": container(
            name, f"--name=mm-task-{job}-debug", f"--volume=/work/agent_jobs/{job}", expires=past
        ),
        "somebody's volume": docker("volume", "create", *labels, f"{name}-workspace"),
        "somebody's network": docker("network", "create", *labels, name),
    }
    yield found
    containers = (
        each for what, each in found.items() if "volume" not in what and "net" not in what
    )
    docker("rm", "--force", "--volumes", *containers)
    docker("volume", "rm", "--force", found["its volume"], found["somebody's volume"])
    docker("network", "rm", name)
    docker("rmi", name)


async def swept(ahead: timedelta = timedelta(0), dry_run: bool = False) -> list[str]:
    """What a sweep does whose clock is ahead of the others'."""

    def clock() -> datetime:
        return datetime.now(UTC) + ahead

    async with get_client() as client:
        return await sweep(SweptHost(client, HostSettings(), LOGGER, dry_run=dry_run, now=clock))


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


async def submitted(client: PrefectClient, *states: StateType) -> FlowRun:
    """A run of a deployment that went through these states."""
    flow_id = await client.create_flow(container_task)
    deployment = await client.create_deployment(flow_id, name=f"swept-{uuid4()}")
    run = await client.create_flow_run_from_deployment(deployment)
    for kind in states:
        state: State[None] = State(type=kind)
        await client.set_flow_run_state(run.id, state, force=True)
    return run


async def is_scheduled(client: PrefectClient, run: FlowRun) -> bool:
    state = (await client.read_flow_run(run.id)).state
    return state is not None and state.is_scheduled()


async def test_the_sweep_removes_what_a_run_left_and_nothing_that_is_not_its_own(
    prefect_api: None, engine_objects: dict[str, str]
) -> None:
    told = await swept(AHEAD, dry_run=True)
    assert any("removed the container" in line for line in told)
    assert exists(engine_objects["expired"]), "a dry run removes nothing"
    await swept(AHEAD)
    removed = {name for name, found in engine_objects.items() if not exists(found)}
    assert removed == {"expired", "its volume"}


async def test_one_object_that_cannot_be_removed_does_not_keep_the_sweep_from_the_others(
    prefect_api: None,
) -> None:
    past = f"--label=moonmind.expires_at={(NOW + AHEAD - timedelta(hours=1)).isoformat()}"
    labels = [
        (f"--label=moonmind.job_id={job}", past) for job in sorted(str(uuid4()) for _ in "ab")
    ]
    kept, gone = (
        docker("volume", "create", *each, f"mm-task-{each[0][-36:]}-1-workspace") for each in labels
    )
    box = docker("create", f"--volume={kept}:/x", BUSYBOX, "true")
    try:
        (told,) = [line for line in await swept(AHEAD) if kept in line]
        assert told.startswith(f"could not remove the volume {kept} of ")
        assert "in use" in told
        assert (exists(kept), exists(gone)) == (True, False)
    finally:
        docker("rm", box)
        docker("volume", "rm", kept)


async def test_a_sweep_asks_once_for_a_run_that_is_over_until_it_is_started_again(
    runner: Runner, jobs_folder: Path
) -> None:
    job_id = (await runner(shell("true"))).job_id
    assert job_id in open_jobs(jobs_folder)
    await reap_orphans(dry_run=True)
    assert job_id in open_jobs(jobs_folder), "a dry run notes nothing"
    await reap_orphans()
    assert job_id not in open_jobs(jobs_folder)
    assert job_id in known_jobs(jobs_folder)
    with AttemptStore(jobs_folder, job_id).held(make=True):
        assert job_id in open_jobs(jobs_folder)


async def test_a_run_that_its_worker_claimed_and_never_began_is_put_back_into_its_queue(
    client: PrefectClient,
) -> None:
    run = await submitted(client, StateType.PENDING)
    told = f"{run.id}: it died before its container began"
    assert told not in await swept(), "it may begin yet"
    assert told in await swept(timedelta(minutes=3))
    assert await is_scheduled(client, run)


async def test_a_run_whose_worker_died_before_the_flows_first_step_is_started_again(
    client: PrefectClient,
) -> None:
    run = await submitted(client, StateType.PENDING, StateType.RUNNING)
    AttemptStore(HostSettings().workdir, str(run.id)).note_taken()
    told = f"{run.id}: its process died"
    assert told not in await swept(), "it may take its first step yet"
    assert told in await swept(timedelta(seconds=20))
    assert await is_scheduled(client, run)


@pytest.mark.parametrize(("crashes", "again"), [(1, True), (2, True), (3, False)])
async def test_a_run_that_crashed_before_its_container_began_has_as_many_starts_as_any_other(
    client: PrefectClient, crashes: int, again: bool
) -> None:
    run = await submitted(client, *[StateType.PENDING, StateType.CRASHED] * crashes)
    told = await swept(timedelta(seconds=20))
    assert (f"{run.id}: it died before its container began" in told) is again
    assert str(run.id) not in known_jobs(HostSettings().workdir), "it may run on another host"
    assert await is_scheduled(client, run) is again
