"""What a replay leaves on the engine, who may look at it, and who removes it."""

import asyncio
import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flows.cli.replay.recording import marker, remove
from flows.runtime.store import AttemptStore
from flows.spec import LABEL_JOB_ID, ContainerSpec, Run
from flows.workspace.folder import Workspace
from tests.command import Here, read_until, started
from tests.runs import BUSYBOX, left_on_engine, shell
from tests.specs import NOW, compiled

pytestmark = pytest.mark.docker


def test_clean_leaves_what_runs_and_another_folders_and_takes_what_a_killed_replay_left(
    here: Here, written: Any, tmp_path: Path
) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    name = written(shell("echo begun; sleep 60", stopGraceSeconds=1))
    process = started("replay", name, "--folder", str(other))
    read_until(process, "begun\n")
    (job_id,) = (path.stem for path in (other / ".runs").glob("*.replay"))
    for folder in (mine, other):
        cleaned = here("replay", "--clean", "--folder", str(folder))
        assert (cleaned.status, cleaned.out) == (0, f"Nothing was kept in {folder}.\n")
        assert len(left_on_engine(job_id)) == 1
    process.kill()
    process.communicate(timeout=300)
    cleaned = here("replay", "--clean", "--folder", str(other))
    assert f"Removed the container mm-task-{job_id}-1." in cleaned.out
    assert left_on_engine(job_id) == []
    assert [path.name for path in other.iterdir()] == [".runs"]


def test_what_is_kept_of_a_secret_is_told_and_its_copy_does_not_hand_it_on(
    here: Here, written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "hunter22")
    limits = {"memory": "64m", "pids": 50}
    raw = shell(
        "true",
        secrets={"TOKEN": "task-token"},
        env={"COPY": "it is hunter22", "PLAIN": "a b"},
        network="none",
        user="1000:1000",
        resources=limits,
    )
    folder = str(tmp_path / "with space")
    options = ("--keep", "--json", "--secret", "TOKEN", "--folder", folder)
    told = here("replay", written(raw), *options).json
    try:
        assert "still holds TOKEN, COPY for anyone who may use this engine" in told["warning"]
        assert "hunter22" not in json.dumps(told)
        shown = subprocess.run(
            ["sh", "-c", told["look"]["shell"].replace(" -it ", " -i ")],
            input="echo [$TOKEN$COPY] $PLAIN; id -u; ls /sys/class/net; "
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max",
            env={name: os.environ[name] for name in ("PATH", "HOME")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        assert shown[1:5] == ["[] a b", "1000", "lo", str(64 * 1024**2)]
    finally:
        program, *words = shlex.split(told["look"]["remove"])
        cleaned = here(*words)
    assert program == "container-task"
    assert f"Removed the container {told['container']}." in cleaned.out


@pytest.fixture
def job(tmp_path: Path) -> Iterator[tuple[AttemptStore, Workspace, ContainerSpec]]:
    """A replay that is over, with a container and a folder that nobody removed."""
    workspace = Workspace(tmp_path / "replays", str(uuid4()))
    run = Run(workspace.job_id, attempt=1, worker="here", now=NOW)
    spec = compiled(shell("true"), workspace.mount, run)
    store = AttemptStore(workspace.root, spec.job_id)
    workspace.create(spec.artifacts_subdir)
    label = f"{LABEL_JOB_ID}={spec.job_id}"
    mount = spec.mounts[0]
    folder = f"{mount.source}:{mount.target}"
    create = [
        "docker",
        "create",
        "--name",
        spec.name,
        "--label",
        label,
        "--volume",
        folder,
        BUSYBOX,
    ]
    with store.held(make=True):
        marker(workspace.root, spec.job_id).touch()
        subprocess.run(create, check=True, capture_output=True)
        yield store, workspace, spec
    subprocess.run(["docker", "rm", "--force", spec.name], check=False, capture_output=True)


def test_a_replay_that_broke_off_removes_its_container_too(job: Any) -> None:
    store, workspace, spec = job
    said: list[str] = []
    asyncio.run(remove(store, workspace, spec, said.append, began=True))
    assert said == []
    assert left_on_engine(spec.job_id) == []
    assert list((workspace.root / ".runs").iterdir()) == []


def test_an_engine_that_is_away_at_the_end_is_told_and_what_is_left_can_be_cleaned(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, workspace, spec = job
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
        asyncio.run(remove(store, workspace, spec, said.append, began=True))
    (sentence,) = said
    assert "unix:///nowhere/docker.sock does not answer" in sentence
    assert "container-task replay --clean" in sentence
    assert marker(workspace.root, spec.job_id).exists()
    assert len(left_on_engine(spec.job_id)) == 1
