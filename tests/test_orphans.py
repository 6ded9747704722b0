"""The sweep, in this process, among objects that are ours, expired, foreign or somebody's else."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from flows.orphans import reap_orphans
from tests.runs import BUSYBOX

pytestmark = pytest.mark.docker
NOW = datetime.now(UTC)


def container(*labels: str) -> str:
    words = [word for label in labels for word in ("--label", label)]
    command = ["docker", "run", "--detach", *words, BUSYBOX, "sleep", "300"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def exists(container_id: str) -> bool:
    command = ["docker", "inspect", container_id]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def engine_objects() -> Iterator[dict[str, str]]:
    """A container past its date, one before it of a run that this server does not know, one
    without a job."""
    past, future = NOW - timedelta(hours=1), NOW + timedelta(hours=1)
    job = f"moonmind.job_id={uuid4()}"
    found = {
        "expired": container(job, f"moonmind.expires_at={past.isoformat()}"),
        "elsewhere": container(job, f"moonmind.expires_at={future.isoformat()}"),
        "foreign": container(f"moonmind.expires_at={past.isoformat()}"),
    }
    yield found
    subprocess.run(["docker", "rm", "--force", *found.values()], capture_output=True, check=False)


async def test_the_sweep_removes_what_is_expired_and_leaves_what_may_be_anothers(
    prefect_api: None, engine_objects: dict[str, str]
) -> None:
    told = await reap_orphans(dry_run=True)
    assert any("removed the container" in line for line in told)
    assert exists(engine_objects["expired"]), "a dry run removes nothing"
    await reap_orphans()
    assert {name: exists(found) for name, found in engine_objects.items()} == {
        "expired": False,
        "elsewhere": True,
        "foreign": True,
    }
