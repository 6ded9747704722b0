"""Which image the container is made of that may change owners: no task has a say in it."""

import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.engine.docker.engine import DockerEngine
from flows.engine.images.pull import PullOptions
from flows.engine.types import HelperImage, Owner, Reclaim, plan_reclaim
from flows.runtime.helper_image import helper_image
from flows.workspace.folder import Workspace
from tests.hosts import need_root
from tests.registry import Registry
from tests.runs import BUSYBOX, left_on_engine, payload
from tests.specs import compiled, new_run

pytestmark = pytest.mark.docker
TOOLS = ("sh", "find", "awk", "chown", "chmod", "tail", "tr", "printf")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running
        running.forget()


@pytest.fixture(scope="module")
def image(registry: Registry) -> str:
    """The name of an image that works on this machine, and has no program on another."""
    busybox = subprocess.check_output(["docker", "run", "--rm", BUSYBOX, "cat", "/bin/busybox"])
    paths = [f"bin/{tool}" for tool in TOOLS]
    here = registry.push_as("helper", "here", *[busybox] * len(TOOLS), paths=paths)
    there = registry.push_as("helper", "there", os.urandom(64), architecture="arm64")
    return f"{registry.host}/{registry.push_manifests('helper', here, there)}"


@pytest.fixture
async def engine(outside_a_run: None) -> AsyncIterator[DockerEngine]:
    async with DockerEngine() as engine:
        yield engine


def reclaim_by(image: str, folder: Path) -> Reclaim:
    """The helper for a job's folder with a file."""
    need_root("gives files away")
    run = new_run()
    workspace = Workspace(folder, run.job_id)
    workspace.create("container")
    (workspace.repo / "file").touch()
    spec = compiled(payload("true"), workspace.mount, run)
    owner, now = Owner(12345, 12345), datetime.now(UTC)
    return plan_reclaim(spec.name, workspace.mount, image, owner, spec.labels, now)


def owner_in(reclaim: Reclaim) -> int:
    return (Path(reclaim.mount.source) / "repo" / "file").stat().st_uid


async def test_a_task_that_wants_the_helpers_image_for_another_platform_does_not_change_the_helper(
    engine: DockerEngine, image: str, tmp_path: Path
) -> None:
    elsewhere = payload("true", image=image, platform="linux/arm64", pull="always")
    await engine.pull(compiled(elsewhere), PullOptions())
    first = reclaim_by(image, tmp_path)
    await engine.reclaim(first)
    assert owner_in(first) == 12345
    await engine.pull(compiled(elsewhere), PullOptions())
    second = reclaim_by(image, tmp_path)
    await engine.reclaim(second)
    assert owner_in(second) == 12345
    assert left_on_engine(second.job_id) == []


async def test_the_helpers_image_stays_the_one_that_was_noted(
    engine: DockerEngine, image: str, tmp_path: Path
) -> None:
    wanted = HelperImage(image)
    noted = await helper_image(engine, tmp_path, wanted)
    subprocess.run(["docker", "tag", BUSYBOX, image], check=True)
    try:
        assert await engine.helper_image(wanted) != noted, "the name says another by now"
        assert await helper_image(engine, tmp_path, wanted) == noted
    finally:
        subprocess.run(["docker", "rmi", image], check=True, capture_output=True)
    assert await helper_image(engine, tmp_path, HelperImage(BUSYBOX)) != noted


async def test_a_noted_image_that_is_gone_is_resolved_anew(
    engine: DockerEngine, tmp_path: Path
) -> None:
    gone = f"sha256:{'0' * 64}"
    (tmp_path / ".runs").mkdir()
    (tmp_path / ".runs" / "helper-image").write_text(json.dumps({BUSYBOX: gone}))
    found = await helper_image(engine, tmp_path, HelperImage(BUSYBOX))
    assert found != gone
    assert json.loads((tmp_path / ".runs" / "helper-image").read_text()) == {BUSYBOX: found}
