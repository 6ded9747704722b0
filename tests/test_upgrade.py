"""A run under way survives the upgrade: what the version before left is taken up by this one.

`data/earlier_attempt.json` is an attempt as that version stored it while its container ran, and
`data/earlier_container.json` the part of `docker inspect` that it chose for that container.
"""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_engine import run_flow

from flows.container_task import container_task
from flows.runtime.store import AttemptStore
from tests.runs import Finished, left_on_engine, shell, until

pytestmark = pytest.mark.docker

DATA = Path(__file__).parent / "data"
CACHE = f"moonmind_test_upgrade_{os.getpid()}"
WRITTEN = "2026-11-28T23:22:13.315+00:00 Prepared the folder\n"


def docker(*words: str) -> str:
    return subprocess.run(
        ["docker", *words], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def cache() -> Iterator[str]:
    yield CACHE
    for container_id in docker("ps", "--all", "--quiet", "--filter", f"volume={CACHE}").split():
        docker("rm", "--force", container_id)
    docker("volume", "rm", "--force", CACHE)


def earlier(file: str, job_id: str, root: Path) -> Any:
    """A file of `data`, as if it had been written for this job, here and now."""
    now, text = datetime.now(UTC), (DATA / file).read_text()
    values = {
        "JOB": job_id,
        "ROOT": str(root),
        "WORKER": "test",
        "CACHE": CACHE,
        "CREATED_AT": now.isoformat(),
        "EXPIRES_AT": (now + timedelta(hours=4)).isoformat(),
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return json.loads(text)


def start(container: Any) -> str:
    """The container's id, which runs as the engine was asked for it."""
    config, host = container["Config"], container["HostConfig"]
    mounts = [
        f"type={each['Type']},source={each['Source']},target={each['Target']}"
        for each in host["Mounts"]
    ]
    return docker(
        *("run", "--detach", "--init", "--name", container["Name"].removeprefix("/")),
        *(f"--label={key}={value}" for key, value in config["Labels"].items()),
        *(f"--env={each}" for each in config["Env"]),
        *(f"--mount={each}" for each in mounts),
        *(f"--cap-drop={each}" for each in host["CapDrop"]),
        *(f"--security-opt={each}" for each in host["SecurityOpt"]),
        *(f"--memory={host['Memory']}", f"--memory-swap={host['MemorySwap']}"),
        *(f"--cpus={host['NanoCpus'] / 1e9}", f"--pids-limit={host['PidsLimit']}"),
        *(f"--network={host['NetworkMode']}", f"--workdir={config['WorkingDir']}"),
        *(config["Image"], *config["Cmd"]),
    )


def leave(job_id: str, root: Path) -> str:
    """All that a process of the version before left when it was killed; the container's id."""
    folder = root / job_id
    logs = folder / "artifacts" / "container" / "logs"
    for each in (folder / "repo", logs, logs.parent / "metadata", folder / "artifacts" / "logs"):
        each.mkdir(parents=True)
    (attempt,) = earlier("earlier_attempt.json", job_id, root)
    attempt["prepared"]["ready_ns"] = time.time_ns()
    runs = root / ".runs"
    runs.mkdir(exist_ok=True)
    (runs / f"{job_id}.json").write_text(json.dumps([attempt]))
    (runs / f"{job_id}.lock").touch()
    container_id = start(earlier("earlier_container.json", job_id, root))
    until(lambda: docker("logs", container_id) == "before")
    # It wrote both logs into the container's own mount.
    (logs / "runner.log").write_text("before\n")
    (folder / "artifacts" / "logs" / "execute.log").write_text(WRITTEN)
    return container_id


async def run_on(run: FlowRun, journal: Path, go: Path) -> State[Any]:
    """The run's state, after its container was let go on once it was adopted."""
    flow: Any = container_task
    running = asyncio.create_task(run_flow(flow, flow_run=run, return_type="state"))  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        while not (running.done() or "Adopting" in journal.read_text()):
            await asyncio.sleep(0.05)
        go.touch()
        state: State[Any] = await running
    return state


async def test_a_container_that_the_version_before_started_is_adopted_and_brought_to_its_end(
    prefect_api: None, jobs_folder: Path, cache: str
) -> None:
    async with get_client() as client:
        payload = shell("as the version before compiled it")
        run = await client.create_flow_run(container_task, parameters={"payload": payload})
    job_id = str(run.id)
    container_id = leave(job_id, jobs_folder)
    artifacts = jobs_folder / job_id / "artifacts"
    journal = artifacts / "logs" / "execute.log"
    state = await run_on(run, journal, artifacts / "container" / "go")
    done = Finished(state, jobs_folder / job_id)
    assert (state.name, state.message) == ("Completed", "exited 0")
    assert done.output == "before\nafter\n"
    facts = done.run_json
    assert (facts["outcome"], facts["exitCode"], facts["attempt"]) == ("succeeded", 0, 1)
    assert facts["logs"]["complete"] is True
    assert [each["collected"] for each in facts["outputs"]] == [1]
    assert done.file("container/x.txt").read_text() == "done\n"
    assert journal.read_text().startswith(WRITTEN)
    (attempt,) = AttemptStore(jobs_folder, job_id).attempts()
    assert (attempt.published, attempt.outcome.name) == (True, "succeeded")
    assert left_on_engine(job_id) == []
    assert container_id not in docker("ps", "--all", "--quiet", "--no-trunc")


async def test_an_attempt_that_the_version_before_prepared_is_followed_by_one_that_owns_its_cache(
    prefect_api: None, jobs_folder: Path, cache: str
) -> None:
    volumes = [{"name": cache, "target": "/cache"}]
    payload = shell("echo kept > /cache/x; cat /cache/x", cacheVolumes=volumes)
    async with get_client() as client:
        run = await client.create_flow_run(container_task, parameters={"payload": payload})
    job_id = str(run.id)
    (attempt,) = earlier("earlier_attempt.json", job_id, jobs_folder)
    # It was stopped while it waited for the image.
    attempt["began"] = False
    (jobs_folder / job_id / "artifacts" / "logs").mkdir(parents=True)
    runs = jobs_folder / ".runs"
    runs.mkdir(exist_ok=True)
    (runs / f"{job_id}.json").write_text(json.dumps([attempt]))
    (runs / f"{job_id}.lock").touch()
    flow: Any = container_task
    state: Any = await run_flow(flow, flow_run=run, return_type="state")  # type: ignore[misc]
    assert (state.name, state.message) == ("Completed", "exited 0")
    first, second = AttemptStore(jobs_folder, job_id).attempts()
    assert "noted not whose the cache" in (first.outcome.error or "")
    assert second.outcome.name == "succeeded"
    labels = json.loads(docker("volume", "inspect", "--format", "{{json .Labels}}", cache))
    assert labels["moonmind.cache_owner"] == "flow:container-task"
    assert left_on_engine(job_id) == []
