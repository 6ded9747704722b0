"""Whose the files in a job's folder are, and how a worker that is not root gets them back."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from flows.engine.contract import Engine
from flows.engine.docker.engine import DockerEngine
from flows.engine.docker.helper import reclaim_arguments
from flows.engine.types import Image, Owner, Reclaim, outer_id, plan_reclaim
from flows.errors import EngineError
from flows.runtime.collect import reclaim, remove_left_behind
from flows.settings import HostSettings
from flows.spec import is_expired
from flows.testing import FakeEngine
from flows.workspace.folder import Workspace
from flows.workspace.listing import Ownership, ownership
from flows.workspace.tree import remove_tree
from tests.hosts import NOBODY, as_nobody, deep, fill_as_others, need_root, nobodys_folder
from tests.runs import BUSYBOX, left_on_engine
from tests.specs import BIND, IMAGE, NOW, VOLUME, compiled
from tests.strategies import FULL

ME = os.geteuid()


def reclaim_in(folder: Path, image: str = BUSYBOX, owner: Owner | None = None) -> Reclaim:
    job_id = str(uuid4())
    mount = replace(BIND, source=str(folder), target=f"/work/agent_jobs/{job_id}")
    labels, name = {"moonmind.job_id": job_id}, f"mm-task-{job_id}-1"
    return plan_reclaim(name, mount, image, owner or Owner(12345, 12345), labels, datetime.now(UTC))


@pytest.fixture
def nobodys() -> Iterator[Workspace]:
    """A job's folder of a worker that is not root, filled by a container of somebody else."""
    with nobodys_folder() as folder:
        workspace = Workspace(folder / "jobs", "7f1e")
        with as_nobody():
            workspace.create("container")
        fill_as_others(workspace.repo)
        yield workspace


@pytest.mark.parametrize(
    ("table", "number", "is_outside"),
    [
        ("", 1000, 1000),
        ("         0          0 4294967295\n", 1000, 1000),
        ("0 1000 1\n1 100000 65536\n", 0, 1000),
        ("0 1000 1\n1 100000 65536\n", 1000, 100999),
        ("0 1000 1\n1 100000 65536\n", 70000, 70000),
    ],
)
def test_a_user_has_another_number_outside_of_its_namespace(
    table: str, number: int, is_outside: int
) -> None:
    assert outer_id(number, table) == is_outside


def test_a_folder_that_passes_its_group_on_keeps_to_it(tmp_path: Path) -> None:
    assert Owner.in_folder(tmp_path).gid == os.getegid()
    need_root("gives folders away")
    os.chown(tmp_path, -1, 1234)
    tmp_path.chmod(0o2770)
    assert Owner.in_folder(tmp_path) == Owner(ME, 1234)


def test_the_helper_may_change_owners_in_the_jobs_folder_and_nothing_else() -> None:
    spec = compiled(FULL)
    decided = plan_reclaim(spec.name, BIND, BUSYBOX, Owner(1000, 1001), spec.labels, NOW)
    arguments = reclaim_arguments(decided, IMAGE, (1, 41))
    assert arguments["name"] == f"{spec.name}-files"
    assert arguments["image"] == IMAGE.id
    assert arguments["mounts"] == [{"Type": "bind", "Source": BIND.source, "Target": BIND.target}]
    assert arguments["network_mode"] == "none"
    assert (arguments["cap_drop"], arguments["privileged"]) == (["ALL"], False)
    assert sorted(arguments["cap_add"]) == ["CHOWN", "DAC_OVERRIDE", "FOWNER"]
    assert arguments["security_opt"] == ["no-new-privileges"]
    assert arguments["read_only"] is True
    assert arguments["use_config_proxy"] is False
    assert arguments["pids_limit"] <= 4096
    assert arguments["mem_limit"] == arguments["memswap_limit"] <= 2**28
    assert arguments["command"][-3:] == ["1000", "1001", BIND.target]
    assert arguments["labels"].keys() == spec.labels.keys()
    assert not is_expired(arguments["labels"], NOW)


@pytest.mark.parametrize(
    ("api_version", "source"),
    [((1, 41), "mm-task-7f1e-2-files-workspace"), ((1, 45), VOLUME.source)],
)
def test_the_helper_sees_one_folder_of_a_volume(api_version: tuple[int, int], source: str) -> None:
    spec = compiled(FULL, mount=VOLUME)
    decided = plan_reclaim(spec.name, VOLUME, BUSYBOX, Owner(1, 1), spec.labels, NOW)
    (mount,) = reclaim_arguments(decided, Image("sha256:1"), api_version)["mounts"]
    assert mount["Source"] == source
    assert mount.get("VolumeOptions", {}).get("Subpath") == (
        "7f1e" if api_version == (1, 45) else None
    )


async def reclaimed(engine: Engine, workspace: Workspace) -> str | None:
    spec = compiled(FULL, mount=workspace.mount)
    with as_nobody():
        return await reclaim(engine, workspace, spec)


class EngineOfRoot(FakeEngine):
    """Has root's rights, as an engine does, whoever asks it."""

    async def reclaim(self, reclaim: Reclaim) -> None:
        os.seteuid(0)
        try:
            await super().reclaim(reclaim)
        finally:
            os.seteuid(NOBODY)


async def test_a_worker_gets_files_back_once(
    nobodys: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONMIND_HELPER_IMAGE", BUSYBOX)
    engine = EngineOfRoot(images=(BUSYBOX,))
    for _ in range(2):
        assert await reclaimed(engine, nobodys) is None
    assert engine.calls == ["reclaim"], "what is the worker's costs a look and no more"
    with as_nobody():
        nobodys.remove()
        assert os.listdir(nobodys.root) == [".runs"]


async def test_a_worker_that_is_root_needs_no_helper(nobodys: Workspace) -> None:
    engine = FakeEngine()
    assert await reclaim(engine, nobodys, compiled(FULL, mount=nobodys.mount)) is None
    assert engine.calls == []


class Idle(FakeEngine):
    """Says that it did, and did not."""

    async def reclaim(self, reclaim: Reclaim) -> None:
        self.calls.append("reclaim")


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        (
            FakeEngine(images=()),
            "busybox:1.36 is not on this host.* another one in MOONMIND_HELPER_IMAGE",
        ),
        (FakeEngine(breaks_at="reclaim"), "Docker does not answer"),
        (Idle(), "it had no effect; see whether its file system has owners"),
    ],
    ids=["no image", "no engine", "no effect"],
)
async def test_what_cannot_be_given_back_is_told_and_removed_by_a_later_sweep(
    nobodys: Workspace, engine: FakeEngine, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await reclaimed(engine, nobodys)
    assert kept is not None
    assert "\n" not in kept
    assert f"left in {nobodys.folder} could not all be given back: " in kept
    assert re.search(reason, kept)
    monkeypatch.setenv("MOONMIND_HELPER_IMAGE", BUSYBOX)
    monkeypatch.setenv("MOONMIND_WORKDIR", str(nobodys.root))
    with as_nobody():
        nobodys.remove()
        assert not nobodys.folder.exists()
        (left,) = nobodys.root.glob(".removed-*")
        told = await remove_left_behind(EngineOfRoot(images=(BUSYBOX,)), HostSettings())
        assert told == [f"removed {left.name}, which an earlier removal had to leave"]
        assert os.listdir(nobodys.root) == [".runs"]


@pytest.mark.docker
@pytest.mark.parametrize(
    ("image", "owner", "sentence"),
    [
        (BUSYBOX, Owner(2**32 - 1, 1), "exited 1: the engine knows no user 4294967295 or no group"),
        ("moonmind-local/node:18", Owner(12345, 12345), None),
    ],
    ids=["a user that no namespace has", "another image, with GNU's tools and an entry point"],
)
async def test_the_helper_works_in_other_images_and_tells_what_it_cannot(
    tmp_path: Path, image: str, owner: Owner, sentence: str | None
) -> None:
    need_root("gives files away")
    fill_as_others(tmp_path / "job")
    decided = reclaim_in(tmp_path / "job", image, owner)
    async with DockerEngine() as engine:
        if sentence is None:
            await engine.reclaim(decided)
            assert ownership(tmp_path / "job", owner.uid) is Ownership.OURS
        else:
            with pytest.raises(EngineError, match=sentence):
                await engine.reclaim(decided)
    assert left_on_engine(decided.job_id) == []


@pytest.mark.docker
async def test_a_tree_deeper_than_paths_are_long_is_given_back_to_its_bottom() -> None:
    with nobodys_folder() as folder:
        job = folder / "job"
        for name, levels in (("a", 4000), ("b" * 250, 100)):
            (job / name[0]).mkdir(parents=True)
            deep(job / name[0], name, levels)
        async with DockerEngine() as engine:
            await engine.reclaim(reclaim_in(job))
        for name in ("a", "b" * 250):
            descriptor = os.open(job / name[0], os.O_RDONLY)
            while "bottom" not in os.listdir(descriptor):
                assert os.fstat(descriptor).st_uid == 12345
                below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            assert os.stat("bottom", dir_fd=descriptor).st_uid == 12345
            os.close(descriptor)
        # Python's own removal recurses once a level.
        remove_tree(job)


@pytest.mark.docker
@pytest.mark.thorough
async def test_many_files_are_given_back_within_seconds() -> None:
    with nobodys_folder() as folder:
        for number in range(100):
            (folder / "job" / str(number)).mkdir(parents=True)
            for name in range(500):
                os.close(os.open(folder / "job" / str(number) / str(name), os.O_CREAT, 0o600))
        began = time.monotonic()
        async with DockerEngine() as engine:
            await engine.reclaim(reclaim_in(folder / "job"))
        assert ownership(folder / "job", 12345) is Ownership.OURS
        assert time.monotonic() - began < 60
