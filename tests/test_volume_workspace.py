"""The job folders in a named volume, as the worker of the compose stack has them."""

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from flows.engine.docker.engine import DockerEngine
from flows.payload.compiler import compile_spec
from flows.payload.parse import parse
from flows.payload.policy import Policy
from flows.spec import Run
from flows.workspace.folder import Workspace
from tests.conftest import IN_CI
from tests.runs import Runner, left_on_engine, shell

pytestmark = pytest.mark.docker


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def volume() -> Iterator[str]:
    name = f"moonmind-test-{uuid4().hex[:8]}"
    docker("volume", "create", name)
    yield name
    docker("volume", "rm", name)


@pytest.fixture
def mountpoint(volume: str) -> Path:
    """Where the engine keeps the volume: a worker's `MOONMIND_WORKDIR`, seen from the host."""
    (found,) = json.loads(docker("volume", "inspect", volume))
    path = Path(found["Mountpoint"])
    if not os.access(path, os.W_OK):
        reason = f"{path} is not this user's to write: run as root on the engine's own host"
        if IN_CI:
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture
def volume_runner(
    prefect_api: None, volume: str, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Runner:
    monkeypatch.setenv("MOONMIND_WORKDIR", str(mountpoint))
    monkeypatch.setenv("MOONMIND_CONTAINER_WORKSPACE_VOLUME", volume)
    return Runner(mountpoint)


async def test_a_job_in_a_volume_sees_its_own_folder_and_its_results_stay(
    volume_runner: Runner, mountpoint: Path
) -> None:
    (mountpoint / "another-job").mkdir()
    (mountpoint / "another-job" / "secret").write_text("not yours")
    run = await volume_runner(
        shell("pwd; ls -A ..; find /work -name secret; echo done > $ARTIFACT_DIR/result")
    )
    assert run.state.is_completed(), run.message
    assert run.output.splitlines() == [
        f"/work/agent_jobs/{run.job_id}/repo",
        "artifacts",
        "repo",
    ]
    assert run.file("container/result").read_text() == "done\n"
    assert run.run_json["outcome"] == "succeeded"
    left = {path.name for path in mountpoint.glob("[!.]*")}
    assert left == {"another-job", run.job_id}


async def test_the_mount_is_a_volume_of_this_run_that_destroying_removes(
    volume: str, mountpoint: Path, outside_a_run: None
) -> None:
    run = Run(str(uuid4()), attempt=1, worker="test", now=datetime.now(UTC))
    workspace = Workspace(mountpoint, run.job_id, volume)
    workspace.create("container")
    task = parse(shell("true"))
    spec = compile_spec(task, Policy(), workspace.mount, run, default_timeout_seconds=60)
    async with DockerEngine() as engine:
        await engine.create(spec, await engine.pull(spec), {})
        (container,) = json.loads(docker("inspect", spec.name))
        await engine.destroy(spec)
    (mount,) = container["Mounts"]
    assert (mount["Type"], mount["Destination"]) == ("volume", f"/work/agent_jobs/{run.job_id}")
    assert left_on_engine(run.job_id) == []
    assert mount["Name"] == volume or mount["Name"] not in docker("volume", "ls", "--quiet")
    assert workspace.repo.is_dir()


async def test_a_missing_volume_is_one_clear_sentence(
    prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONMIND_WORKDIR", str(tmp_path))
    monkeypatch.setenv("MOONMIND_CONTAINER_WORKSPACE_VOLUME", "moonmind-no-such-volume")
    run = await Runner(tmp_path)(shell("true", retry={"infrastructure": 0}))
    assert run.state.name == "InfrastructureError"
    assert "moonmind-no-such-volume" in run.message
    assert "\n" not in run.message
