"""The sweep, in this process, among objects that are ours, expired, foreign or somebody's else."""

import asyncio
import logging
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Pending, Scheduled

from flows.container_task import container_task
from flows.engine.docker.engine import DockerEngine
from flows.orphans import reap_orphans
from flows.runtime.context import Job
from flows.runtime.driver import drive
from flows.runtime.lifecycle import Step
from flows.runtime.run_states import HOST_LABEL, WORKER_LABEL, claim_message, worker_of
from flows.runtime.store import AttemptStore, known_jobs, open_jobs
from flows.settings import HostSettings
from flows.spec import Owned
from flows.worker.owners import NameTaken, is_present, present, server_time
from flows.worker.run_notes import read_runs
from flows.worker.sweep import SweptHost, sweep
from tests.runs import BUSYBOX, Runner, shell

pytestmark = pytest.mark.docker
LOGGER = logging.getLogger(__name__)
NOW = datetime.now(UTC)
# The clock of the sweep that is tested: what is past its date for that is not so for the sweeps of
# workers that other tests run on the same engine.
AHEAD = timedelta(hours=2)
# Of what these tests put on the engine: for a clock that is ahead, what others run there is over.
LABEL = f"sweep-test.{uuid4().hex}"
# The server tells its time in whole seconds.
STARTED, CLAIMED = timedelta(seconds=22), timedelta(minutes=3, seconds=2)
DIED = "its process died, and it is started again"


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
    return docker(
        "run", "--detach", f"--label={LABEL}", *ours, folder, date, *options, image, "sleep", "300"
    )


def exists(name: str) -> bool:
    """Whether there is a container, a volume or a network of this name or id."""
    command = ["docker", "inspect", name]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(autouse=True)
def only_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    owned = DockerEngine.owned

    async def ours(engine: DockerEngine) -> list[Owned]:
        return [each for each in await owned(engine) if LABEL in each.labels]

    monkeypatch.setattr(DockerEngine, "owned", ours)


@pytest.fixture
def engine_objects() -> Iterator[dict[str, str]]:
    """A container and a volume past their date, one before it of a run that this server does not
    know, and what others have on the engine: without a job, or with labels that an image or a
    person handed on."""
    past, future = NOW + AHEAD - timedelta(hours=1), NOW + AHEAD + timedelta(hours=1)
    job, name = str(uuid4()), f"sweep-test-{uuid4().hex}"
    labels = (
        f"--label={LABEL}",
        f"--label=moonmind.job_id={job}",
        f"--label=moonmind.expires_at={past.isoformat()}",
    )
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
    async with get_client() as client:
        host = SweptHost(client, HostSettings(), LOGGER, dry_run=dry_run, ahead=ahead)
        return await sweep(host)


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


async def submitted(
    client: PrefectClient, *states: StateType, due: datetime | None = None
) -> FlowRun:
    """A run of a deployment that went through these states."""
    flow_id = await client.create_flow(container_task)
    deployment = await client.create_deployment(flow_id, name=f"swept-{uuid4()}")
    waiting: State[None] = Scheduled(scheduled_time=due)
    run = await client.create_flow_run_from_deployment(deployment, state=waiting)
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
        (f"--label={LABEL}", past, f"--label=moonmind.job_id={job}")
        for job in sorted(str(uuid4()) for _ in "ab")
    ]
    kept, gone = (
        docker("volume", "create", *each, f"mm-task-{each[-1][-36:]}-1-workspace")
        for each in labels
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
    told = f"{run.id}: {DIED}"
    assert told not in await swept(), "it may begin yet"
    assert told in await swept(CLAIMED)
    assert await is_scheduled(client, run)


async def test_a_run_whose_worker_died_before_the_flows_first_step_is_started_again(
    client: PrefectClient,
) -> None:
    run = await submitted(client, StateType.PENDING, StateType.RUNNING)
    AttemptStore(HostSettings().workdir, str(run.id)).note_taken()
    told = f"{run.id}: {DIED}"
    assert told not in await swept(), "it may take its first step yet"
    assert told in await swept(STARTED)
    assert await is_scheduled(client, run)


@pytest.mark.parametrize(("crashes", "again"), [(1, True), (2, True), (3, False)])
async def test_a_run_that_crashed_before_its_container_began_has_as_many_starts_as_any_other(
    client: PrefectClient, crashes: int, again: bool
) -> None:
    run = await submitted(client, *[StateType.PENDING, StateType.CRASHED] * crashes)
    told = await swept(STARTED)
    assert (f"{run.id}: {DIED}" in told) is again
    assert str(run.id) not in known_jobs(HostSettings().workdir), "it may run on another host"
    assert await is_scheduled(client, run) is again


async def labelled(client: PrefectClient, run: FlowRun, **labels: str) -> FlowRun:
    """As a worker of this host does."""
    ours = {WORKER_LABEL: f"worker-{run.id}", HOST_LABEL: HostSettings().worker}
    await client.update_flow_run_labels(run.id, {**ours, **labels})
    return await client.read_flow_run(run.id)


async def kind(client: PrefectClient, run: FlowRun) -> StateType | None:
    return (await client.read_flow_run(run.id)).state_type


async def test_a_run_that_was_due_long_ago_and_is_lost_is_found(client: PrefectClient) -> None:
    run = await submitted(client, due=datetime.now(UTC) - timedelta(days=3))
    await client.set_flow_run_state(run.id, Pending())
    assert f"{run.id}: {DIED}" in await swept(CLAIMED)
    assert await is_scheduled(client, run)


async def test_what_a_living_worker_of_this_host_has_is_left_to_it_for_as_long_as_it_lives(
    client: PrefectClient,
) -> None:
    states = [[StateType.PENDING], [StateType.PENDING, StateType.RUNNING]]
    runs = [await labelled(client, await submitted(client, *each)) for each in states]
    claimed = await submitted(client)
    name = f"worker-{claimed.id}"
    claim = claim_message(name, HostSettings().worker)
    await client.set_flow_run_state(claimed.id, Pending(message=claim))
    runs.append(await client.read_flow_run(claimed.id))
    for run in runs:
        AttemptStore(HostSettings().workdir, str(run.id)).note_taken()
    with ExitStack() as alive:
        for run in runs:
            alive.enter_context(present(HostSettings().workdir, worker_of(run)))
        told = await swept(timedelta(hours=20))
        assert [line for run in runs for line in told if str(run.id) in line] == []
    # The kernel has released what they held.
    told = await swept()
    assert all(f"{run.id}: {DIED}" in told for run in runs)


async def test_a_worker_finds_what_it_has_and_does_not_carry(client: PrefectClient) -> None:
    runs = [
        await labelled(client, await submitted(client, StateType.PENDING, StateType.RUNNING))
        for _ in "ab"
    ]
    await client.update_flow_run_labels(runs[1].id, {WORKER_LABEL: worker_of(runs[0])})
    with present(HostSettings().workdir, worker_of(runs[0])):
        host = SweptHost(
            client,
            HostSettings(),
            LOGGER,
            is_running=str(runs[1].id).__eq__,
            worker=worker_of(runs[0]),
        )
        told = await sweep(host)
    assert f"{runs[0].id}: {DIED}" in told
    assert not any(str(runs[1].id) in line for line in told)


async def test_a_host_that_comes_back_with_an_empty_disk_finds_its_runs_by_their_labels(
    client: PrefectClient,
) -> None:
    running = await submitted(client, StateType.PENDING, StateType.RUNNING)
    cancelling = await submitted(client, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
    for run in (running, cancelling):
        await labelled(client, run)
    assert not any(str(running.id) in line for line in await swept())
    told = await swept(STARTED)
    assert f"{running.id}: {DIED}" in told
    assert await is_scheduled(client, running)
    assert await kind(client, cancelling) is StateType.CANCELLED


async def test_a_run_of_another_host_is_left_to_it(client: PrefectClient) -> None:
    run = await submitted(client, StateType.PENDING, StateType.RUNNING)
    await labelled(client, run, **{HOST_LABEL: "another"})
    told = await swept(timedelta(hours=20))
    assert not any(str(run.id) in line for line in told)


async def test_an_engine_that_is_away_keeps_no_run_without_a_container_from_being_started_again(
    client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await labelled(client, await submitted(client, StateType.PENDING, StateType.RUNNING))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    told = await swept(STARTED)
    assert f"{run.id}: {DIED}" in told
    assert any(line.startswith("could not be swept as a whole") for line in told)


async def test_a_job_that_is_stuck_holds_up_no_other_and_is_passed_by(
    client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, run = [
        await labelled(client, await submitted(client, StateType.PENDING, StateType.RUNNING))
        for _ in "ab"
    ]
    goes_on = asyncio.Event()

    async def drive_or_hang(job: Job, client: PrefectClient, *, is_lost: bool) -> list[Step]:
        if job.store.job_id == str(stuck.id):
            await goes_on.wait()
        return await drive(job, client, is_lost=is_lost)

    monkeypatch.setattr("flows.worker.sweep.drive", drive_or_hang)
    async with get_client() as own_client:
        host = SweptHost(own_client, HostSettings(), LOGGER, ahead=STARTED)
        told: list[str] = []
        async with asyncio.timeout(120):
            while f"{run.id}: {DIED}" not in told:
                told += await sweep(host, 1.0)
        assert not any(str(stuck.id) in line for line in told)
        assert not any(str(stuck.id) in line for line in await sweep(host, 1.0))
        goes_on.set()
        assert f"{stuck.id}: {DIED}" in await sweep(host)


async def test_two_workers_of_one_name_are_not_served_on_one_host(tmp_path: Path) -> None:
    with present(tmp_path, "a/worker"):
        assert is_present(tmp_path, "a/worker") is True
        with pytest.raises(NameTaken, match="--name"), present(tmp_path, "a/worker"):
            pass
    assert is_present(tmp_path, "a/worker") is False
    assert is_present(tmp_path, "another") is None


async def test_the_locks_of_workers_that_ended_long_ago_are_removed(tmp_path: Path) -> None:
    long_ago = (NOW - timedelta(days=40)).timestamp()
    with present(tmp_path, "alive"), present(tmp_path, "old"), present(tmp_path, "young"):
        pass
    with present(tmp_path, "alive"):
        for name in ("alive", "old"):
            os.utime(tmp_path / ".runs/workers" / name, (long_ago, long_ago))
        with present(tmp_path, "new"):
            known = sorted(path.name for path in (tmp_path / ".runs/workers").iterdir())
    assert known == ["alive", "new", "young"]


async def test_all_runs_are_read_however_many_pages_they_take(
    client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {(await submitted(client, StateType.PENDING, StateType.RUNNING)).id for _ in range(5)}
    monkeypatch.setattr("flows.worker.run_notes._PAGE", 2)
    found = await read_runs(client, StateType.RUNNING)
    assert runs <= {run.id for run in found}


async def test_the_time_is_the_servers(client: PrefectClient) -> None:
    apart = datetime.now(UTC) - await server_time(client)
    assert abs(apart) < timedelta(seconds=10)
