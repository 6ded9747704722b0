"""`container-task doctor`: what it finds at Prefect's server, and in the blocks there."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec import register_implementation
from fsspec.implementations.memory import MemoryFileSystem
from prefect.filesystems import WritableFileSystem
from prefect_docker import DockerRegistryCredentials

from blocks.policy import ContainerPolicy
from blocks.storage import ArtifactStorage
from flows.cli.doctor.checkup import Level
from flows.cli.doctor.engine import clock_finding
from flows.cli.doctor.server import (
    check_api,
    check_clock,
    check_deployment,
    check_policy,
    check_registries,
    check_storage,
    check_sweep,
)
from scripts.stack import DEPLOYMENT, Stack
from tests import host_mistakes
from tests.answering import Answering
from tests.command import server_at
from tests.docker_proxy import docker_proxy
from tests.findings import assert_all_ok, only
from tests.host_mistakes import Told, tells
from tests.registry import PASSWORD, USER, Registry

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("apart", "level", "says"),
    [
        (timedelta(seconds=2), Level.OK, "agree"),
        (timedelta(minutes=3), Level.FAULT, "180 s ahead of this one's"),
        (timedelta(minutes=-3), Level.FAULT, "180 s behind this one's"),
        (None, Level.SKIPPED, "tells no time"),
    ],
)
def test_clocks_that_differ_are_told(apart: timedelta | None, level: Level, says: str) -> None:
    theirs = NOW + apart if apart is not None else None
    found = clock_finding("clock", "the engine's host", theirs, NOW)
    assert found.level is level
    assert says in found.says


@tells(host_mistakes.CLOCK)
def test_a_wrong_clock_is_told_with_what_to_do(told: Told) -> None:
    found = clock_finding("clock", "the engine's host", NOW + timedelta(minutes=3), NOW)
    told(found)


async def test_a_server_with_a_wrong_clock_is_told() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1, seconds=30), usegmt=True)
    with Answering(200, "true", later) as server, server_at(server.url):
        found = only(await check_clock(), Level.FAULT)
    assert re.search(r"the clock of Prefect's server is 36\d\d s ahead of this one's", found.says)
    assert "NTP" in found.mend


@tells(host_mistakes.NO_API)
async def test_no_server_and_one_that_is_away_are_told(told: Told) -> None:
    with server_at(None):
        found = only(await check_api(), Level.FAULT)
    assert found.says.startswith("PREFECT_API_URL is not set")
    with server_at("http://127.0.0.1:9/api"):
        found = only(await check_api(), Level.FAULT)
    real = "http://127.0.0.1:9/api"
    told(found, {real: "http://prefect.example.org/api"})


@tells(host_mistakes.LOG_IN)
async def test_a_log_in_that_the_api_refuses_is_told(told: Told) -> None:
    with Answering(401, "{}") as server, server_at(server.url):
        found = only(await check_api(), Level.FAULT)
        told(found, {server.url: "http://prefect.example.org/api"})


@pytest.fixture
def served(stack: Stack) -> Iterator[Stack]:
    with server_at(f"{stack.address}/api"):
        yield stack


@pytest.mark.server
async def test_the_way_of_a_run_is_told_where_it_is_open(served: Stack) -> None:
    assert_all_ok(await check_deployment(DEPLOYMENT))


@tells(host_mistakes.NO_DEPLOYMENT)
@pytest.mark.server
async def test_a_deployment_that_is_missing_is_told(served: Stack, told: Told) -> None:
    found = only(await check_deployment("container-task/none"), Level.FAULT)
    told(found)


@pytest.fixture
def lonely(served: Stack) -> Iterator[str]:
    """A pool without a worker, and a deployment for it."""
    served.create_pool("lonely")
    yield served.deploy_to("lonely")
    served.api("DELETE", "/work_pools/lonely")


@tells(host_mistakes.NO_WORKER)
@pytest.mark.server
async def test_a_pool_that_is_paused_missing_or_without_worker_is_told(
    served: Stack, lonely: str, told: Told
) -> None:
    found = only(await check_deployment(lonely), Level.WARNING)
    told(found)
    for change, says, mend in (
        ({"is_paused": True}, "is paused", "prefect work-pool resume lonely"),
        ({"is_paused": False, "concurrency_limit": 0}, "limit of 0", "clear-concurrency-limit"),
    ):
        served.api("PATCH", "/work_pools/lonely", **change).raise_for_status()
        found = only(await check_deployment(lonely), Level.FAULT)
        assert says in found.says
        assert mend in found.mend


@pytest.mark.server
async def test_a_pool_that_was_deleted_is_told(served: Stack) -> None:
    served.create_pool("gone")
    deployment = served.deploy_to("gone")
    served.api("DELETE", "/work_pools/gone").raise_for_status()
    found = only(await check_deployment(deployment), Level.FAULT)
    assert found.says == f"{deployment} has no work pool, or it was deleted"
    assert "prefect work-pool create POOL --type container-task" in found.mend


@pytest.mark.server
async def test_an_address_that_does_not_end_in_api_is_told(stack: Stack) -> None:
    with server_at(stack.address):
        found = only(await check_api(), Level.FAULT)
    assert "failed with 404" in found.says
    assert "see whether PREFECT_API_URL ends in /api" in found.mend


@tells(host_mistakes.OTHER_TYPE)
@pytest.mark.server
async def test_a_pool_of_another_type_is_told(served: Stack, told: Told) -> None:
    served.create_pool("cloudy", "kubernetes")
    try:
        found = only(await check_deployment(served.deploy_to("cloudy")), Level.FAULT)
    finally:
        served.api("DELETE", "/work_pools/cloudy")
    told(found)


@tells(host_mistakes.PAUSED)
@pytest.mark.server
async def test_a_queue_that_is_paused_is_told(served: Stack, lonely: str, told: Told) -> None:
    queue = served.api("GET", "/work_pools/lonely/queues/default").json()
    change = {"is_paused": True, "name": queue["name"]}
    served.api("PATCH", "/work_pools/lonely/queues/default", **change).raise_for_status()
    found = only(await check_deployment(lonely), Level.FAULT)
    told(found)


@pytest.mark.server
async def test_a_sweep_that_nobody_does_is_told(served: Stack) -> None:
    assert_all_ok(await check_sweep())
    sweep = served.api("GET", "/deployments/name/reap-orphans/docker").json()
    served.api("POST", f"/deployments/{sweep['id']}/pause_deployment").raise_for_status()
    try:
        found = only(await check_sweep(), Level.WARNING)
        assert "has no active schedule" in found.says
    finally:
        served.api("POST", f"/deployments/{sweep['id']}/resume_deployment").raise_for_status()


# The blocks.


@pytest.fixture
async def saved(prefect_api: None) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Saves a block; it is gone after the test."""
    blocks = []

    async def save(block: object, name: str = "default") -> None:
        await block.asave(name, overwrite=True)  # type: ignore[attr-defined]
        blocks.append((type(block), name))

    yield save
    for kind, name in blocks:
        await kind.adelete(name)  # type: ignore[attr-defined]


class Shelf(WritableFileSystem):
    """Takes files, and knows of no way to remove one."""

    folder: str

    async def write_path(self, path: str, content: bytes) -> None:
        (Path(self.folder) / path).write_bytes(content)

    async def read_path(self, path: str) -> bytes:
        return (Path(self.folder) / path).read_bytes()


async def test_blocks_that_are_not_there_are_no_fault(prefect_api: None) -> None:
    assert_all_ok(await check_policy())
    assert_all_ok(await check_storage())
    assert_all_ok(await check_registries())


async def test_the_rules_in_force_are_told(saved: Callable[..., Awaitable[None]]) -> None:
    await saved(ContainerPolicy(allowed_images=["gcc:*"]))
    assert "images: gcc:*" in only(await check_policy(), Level.OK).says


async def test_a_storage_that_takes_files_is_left_as_it_was(
    saved: Callable[..., Awaitable[None]], tmp_path: Path
) -> None:
    await saved(ArtifactStorage(url=f"file://{tmp_path}"))
    assert_all_ok(await check_storage())
    assert list(tmp_path.iterdir()) == []


@tells(host_mistakes.NO_STORAGE)
async def test_a_storage_that_takes_no_files_is_told(
    saved: Callable[..., Awaitable[None]], tmp_path: Path, told: Told
) -> None:
    # Not even root makes a folder in a file.
    (tmp_path / "file").write_text("")
    await saved(ArtifactStorage(url=f"file://{tmp_path}/file/results"))
    found = only(await check_storage(), Level.FAULT)
    told(found, {f"{tmp_path}/file/results": "/mnt/results"})


async def test_a_block_that_removes_nothing_keeps_one_file_however_often_it_is_tried(
    saved: Callable[..., Awaitable[None]], tmp_path: Path
) -> None:
    await saved(Shelf(folder=str(tmp_path)), "mine")
    await saved(ArtifactStorage(block="shelf/mine"))
    for _ in range(2):
        found = only(await check_storage(), Level.OK)
    assert found.says.endswith(
        "; moonmind-doctor.txt stays there, as a block cannot be asked to remove it"
    )
    assert [each.name for each in tmp_path.iterdir()] == ["moonmind-doctor.txt"]


class Full(MemoryFileSystem):  # type: ignore[misc]
    """Writes half of a file before it fails, as a full disk does."""

    protocol = "full"
    store: ClassVar[dict[str, Any]] = {}

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        super().pipe_file(path, value[: len(value) // 2], mode, **more)
        raise OSError(28, "No space left on device")


async def test_half_a_file_that_was_written_does_not_stay(
    saved: Callable[..., Awaitable[None]],
) -> None:
    register_implementation("full", Full, clobber=True)
    await saved(ArtifactStorage(url="full://disk"))
    found = only(await check_storage(), Level.FAULT)
    assert "No space left on device" in found.says
    assert Full.store == {}


class Keeping(MemoryFileSystem):  # type: ignore[misc]
    """Lets nobody remove anything, as write-once storages do."""

    protocol = "keeping"
    store: ClassVar[dict[str, Any]] = {}

    def rm_file(self, path: str) -> None:
        raise PermissionError("nobody removes")


async def test_a_storage_that_lets_nobody_remove_files_takes_them_all_the_same(
    saved: Callable[..., Awaitable[None]],
) -> None:
    register_implementation("keeping", Keeping, clobber=True)
    await saved(ArtifactStorage(url="keeping://safe"))
    found = only(await check_storage(), Level.OK)
    assert "moonmind-doctor.txt stays there, as it could not be removed (Perm" in found.says


async def test_a_storage_of_an_unknown_protocol_is_told(
    saved: Callable[..., Awaitable[None]],
) -> None:
    await saved(ArtifactStorage(url="nonsense://bucket"))
    found = only(await check_storage(), Level.FAULT)
    assert "the protocol nonsense of nonsense://bucket" in found.says


@pytest.mark.docker
async def test_a_log_in_is_tried_and_a_wrong_one_told_without_its_password(
    saved: Callable[..., Awaitable[None]], private_registry: Registry
) -> None:
    good = DockerRegistryCredentials(
        username=USER, password=PASSWORD, registry_url=private_registry.host
    )
    await saved(good, "good")
    assert_all_ok(await check_registries())
    bad = DockerRegistryCredentials(
        username=USER, password="wrong-horse", registry_url=private_registry.host
    )
    await saved(bad, "bad")
    found = only(await check_registries(), Level.FAULT)
    assert f"the log-in of {USER} to {private_registry.host}, in the block bad, is refused" in (
        found.says
    )
    assert "wrong-horse" not in json.dumps([found.says, found.mend])
    assert "correct user and password in the block bad" in found.mend


@pytest.mark.docker
async def test_a_log_in_that_a_proxy_lets_nobody_try_is_no_fault(
    saved: Callable[..., Awaitable[None]],
    private_registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    credentials = DockerRegistryCredentials(
        username=USER, password=PASSWORD, registry_url=private_registry.host
    )
    await saved(credentials, "good")
    with docker_proxy() as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        found = only(await check_registries(), Level.WARNING)
    assert "could not be tried" in found.says
    assert "without a proxy" in found.mend
