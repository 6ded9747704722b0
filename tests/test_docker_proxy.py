"""Whole runs go through the docker-proxy, to a real engine, and end there with whoever asked."""

import asyncio
import contextlib
import http.client
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from prefect_docker import DockerHost

from flows.engine.docker.client import negotiated
from flows.engine.docker.engine import DockerEngine
from flows.engine.docker.evidence import read_evidence
from flows.engine.docker.images import DockerImages
from flows.engine.docker.stats import Sampler
from flows.engine.images.auth import Login
from flows.engine.images.pull import PullOptions
from flows.engine.types import Evidence, Owner, plan_reclaim
from flows.errors import ImageCause, ImageError
from flows.outcome import OutcomeName
from flows.payload.policy import Policy
from flows.runtime import execution
from flows.runtime.collect import of_left_behind
from flows.spec import ContainerSpec
from flows.workspace.folder import Workspace
from tests.docker_proxy import docker_proxy, new_volume
from tests.registry import Answer, FaultyProxy, Registry, on
from tests.runs import BUSYBOX, left_on_engine, payload, until, until_async
from tests.specs import Collector, compiled, new_run

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def workspace_volume() -> Iterator[str]:
    with new_volume() as name:
        yield name


@pytest.fixture(scope="module")
def port(workspace_volume: str) -> Iterator[int]:
    """A port of loopback where the proxy answers; it lets bind mounts through, as the worker of
    these tests is no container."""
    settings = {
        "DOCKER_PROXY_BIND_MOUNTS": "allow",
        "DOCKER_PROXY_WORKSPACE_VOLUME": workspace_volume,
    }
    with docker_proxy(**settings) as number:
        yield number


@pytest.fixture
async def engine(port: int, outside_a_run: None) -> AsyncIterator[DockerEngine]:
    async with DockerEngine(host=DockerHost(base_url=f"tcp://127.0.0.1:{port}")) as through_proxy:
        yield through_proxy


@pytest.fixture
def volume() -> Iterator[str]:
    with new_volume() as name:
        yield name


def spec_of(folder: Path, *command: str, volume: str = "", **container: Any) -> ContainerSpec:
    run = new_run()
    workspace = Workspace(folder, run.job_id, volume)
    workspace.create("container")
    raw = payload(*command, **({"timeoutSeconds": 60} | container))
    return compiled(raw, workspace.mount, run, Policy(stop_grace_seconds=1))


async def test_a_run_with_a_cache_goes_through(
    engine: DockerEngine, volume: str, tmp_path: Path
) -> None:
    cache = [{"name": volume, "target": "/cache"}]
    script = "echo one; echo two >&2; echo three > /cache/file"
    spec = spec_of(tmp_path, "sh", "-c", script, workdir="/tmp", cacheVolumes=cache)
    sink = Collector()
    outcome = await execution.run(engine, spec, sink)
    assert (outcome.name, outcome.error, outcome.cleanup_error) == ("succeeded", None, None)
    # Which of two pipes the engine reads first is its own affair.
    assert sorted(sink.output.splitlines()) == [b"one", b"two"]
    assert left_on_engine(spec.job_id) == []


async def test_whose_the_users_of_containers_are_is_told(
    engine: DockerEngine, tmp_path: Path
) -> None:
    image = await engine.pull(spec_of(tmp_path, "true"))
    assert not await engine.numbers_users_anew(image)


async def test_a_run_that_is_stopped_goes_through(engine: DockerEngine, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "sh", "-c", "echo up; sleep 60", timeoutSeconds=1)
    sink = Collector()
    outcome = await execution.run(engine, spec, sink)
    assert (outcome.name, outcome.cleanup_error) == (OutcomeName.TIMED_OUT, None)
    assert sink.output == b"up\n"


async def test_pausing_a_task_goes_through(engine: DockerEngine, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "sleep", "60")
    await engine.create(spec, await engine.pull(spec), {})
    try:
        await engine.start(spec)
        await engine.pause(spec)
        assert (await engine.inspect(spec)).paused
        await engine.unpause(spec)
        assert not (await engine.inspect(spec)).paused
    finally:
        await engine.destroy(spec)


async def test_a_workspace_in_a_volume_goes_through(
    engine: DockerEngine, workspace_volume: str, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, "touch", "file", volume=workspace_volume)
    makes = ["mkdir", "-p", f"/jobs/{spec.job_id}/repo"]
    subprocess.run(
        ["docker", "run", "--rm", "--volume", f"{workspace_volume}:/jobs", BUSYBOX, *makes],
        check=True,
    )
    outcome = await execution.run(engine, spec, Collector())
    assert (outcome.name, outcome.error, outcome.cleanup_error) == ("succeeded", None, None)
    assert left_on_engine(spec.job_id) == []


@pytest.mark.parametrize("kind", ["bind", "volume"])
async def test_giving_the_files_of_a_job_back_goes_through(
    engine: DockerEngine, workspace_volume: str, tmp_path: Path, kind: str
) -> None:
    volume = workspace_volume
    spec = spec_of(tmp_path, "true", volume=volume if kind == "volume" else "")
    in_volume = ["docker", "run", "--rm", "--volume", f"{volume}:/jobs", BUSYBOX]
    subprocess.run([*in_volume, "mkdir", f"/jobs/{spec.job_id}"], check=True)
    owner, now = Owner(12345, 12345), datetime.now(UTC)
    await engine.reclaim(plan_reclaim(spec.name, spec.mounts[0], BUSYBOX, owner, spec.labels, now))
    if kind == "volume":
        whose = subprocess.check_output([*in_volume, "stat", "-c", "%u", f"/jobs/{spec.job_id}"])
        assert whose == b"12345\n"
    else:
        assert (tmp_path / spec.job_id / "repo").stat().st_uid == 12345
    assert left_on_engine(spec.job_id) == []


@pytest.mark.parametrize("kind", ["bind", "volume"])
async def test_giving_back_what_an_earlier_removal_left_goes_through(
    engine: DockerEngine, workspace_volume: str, tmp_path: Path, kind: str
) -> None:
    volume = workspace_volume if kind == "volume" else ""
    job_id = str(uuid4())
    folder = tmp_path / f".removed-{job_id}-{job_id[:8]}"
    folder.mkdir()
    in_volume = ["docker", "run", "--rm", "--volume", f"{workspace_volume}:/jobs", BUSYBOX]
    subprocess.run([*in_volume, "mkdir", f"/jobs/{folder.name}"], check=True)
    owner, now = Owner(12345, 12345), datetime.now(UTC)
    name, mount, labels = of_left_behind(folder, volume)
    await engine.reclaim(plan_reclaim(name, mount, BUSYBOX, owner, labels, now))
    if kind == "volume":
        whose = subprocess.check_output([*in_volume, "stat", "-c", "%u", f"/jobs/{folder.name}"])
        assert whose == b"12345\n"
    else:
        assert folder.stat().st_uid == 12345
    assert left_on_engine(job_id) == []


async def test_the_sweep_sees_and_removes_what_is_ours(
    engine: DockerEngine, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, "true")
    await engine.create(spec, await engine.pull(spec), {})
    (ours,) = [each for each in await engine.owned() if each.job_id == spec.job_id]
    assert (ours.kind, ours.name) == ("container", spec.name)
    assert await engine.discard(ours)
    assert not await engine.discard(ours)


@pytest.mark.parametrize("name", ["mm-task-{job}-1-debug", "mm-task-{job}-web", "mm-task-{job}-1"])
async def test_what_others_named_like_a_task_does_not_stop_the_sweep(
    engine: DockerEngine, name: str
) -> None:
    job = str(uuid4())
    called = name.format(job=job)
    words = ["create", "--name", called, "--label", f"moonmind.job_id={job}", BUSYBOX, "true"]
    subprocess.run(["docker", *words], check=True, capture_output=True)
    try:
        assert job not in [each.job_id for each in await engine.owned()]
    finally:
        subprocess.run(["docker", "rm", called], check=True, capture_output=True)


async def test_a_pull_reaches_the_engine(engine: DockerEngine, tmp_path: Path) -> None:
    spec = replace(spec_of(tmp_path, "true"), image="127.0.0.1:1/none:1", pull="always")
    with pytest.raises(ImageError) as refused:
        await engine.pull(spec, PullOptions(tries=1))
    assert "proxy" not in str(refused.value)


async def test_a_pull_tells_how_far_it_is(
    engine: DockerEngine, registry: Registry, tmp_path: Path
) -> None:
    layers = os.urandom(3_000_000), os.urandom(10)
    name = f"{registry.host}/{registry.push(*layers)}"
    spec = replace(spec_of(tmp_path, "true"), image=name, pull="always")
    image = await engine.pull(spec, PullOptions(tries=1))
    assert image.pulled_bytes is not None
    assert image.pulled_bytes > 3_000_000


def open_to_the_engine(port: int) -> int:
    """How many connections the proxy at this port has to the engine."""
    listens = (
        each.pid
        for each in psutil.net_connections(kind="tcp")
        if each.status == psutil.CONN_LISTEN and each.laddr[1:] == (port,)
    )
    # Without the pair by which asyncio wakes itself.
    return len(psutil.Process(next(listens)).net_connections(kind="unix")) - 2


def test_a_pull_that_nobody_waits_for_ends_on_the_engine(port: int, registry: Registry) -> None:
    before = open_to_the_engine(port)
    with FaultyProxy(registry.port) as slow, slow.failing(on("/blobs/", Answer(held=True))):
        name, _, tag = registry.push(os.urandom(64)).partition(":")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", f"/images/create?fromImage={slow.host}/{name}&tag={tag}")
        until(lambda: slow.count("/blobs/"))
        assert open_to_the_engine(port) == before + 1
        connection.close()
        until(lambda: open_to_the_engine(port) == before)


@pytest.mark.parametrize("call", ["POST wait", "GET logs?follow=1&stdout=1", "GET stats?stream=1"])
async def test_what_nobody_waits_for_any_more_ends_on_the_engine(
    engine: DockerEngine, port: int, tmp_path: Path, call: str
) -> None:
    spec = spec_of(tmp_path, "sleep", "60")
    await engine.create(spec, await engine.pull(spec), {})
    await engine.start(spec)
    before = open_to_the_engine(port)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    method, what = call.split()
    connection.request(method, f"/containers/{spec.name}/{what}")
    await until_async(lambda: open_to_the_engine(port) == before + 1)
    connection.close()
    await until_async(lambda: open_to_the_engine(port) == before)
    await engine.destroy(spec)


async def test_the_question_who_may_read_an_image_reaches_the_engine(
    engine: DockerEngine, tmp_path: Path
) -> None:
    registry = "127.0.0.1:1"
    spec = replace(spec_of(tmp_path, "true"), image=f"{registry}/{uuid4().hex}:1")
    images = DockerImages(engine._docker)
    with pytest.raises(ImageError) as refused:
        await images.may_read(spec, Login(registry, "somebody", "secret"), 20)
    assert refused.value.cause is ImageCause.UNREACHABLE


async def test_what_a_container_uses_and_how_it_ends_goes_through(
    engine: DockerEngine, port: int, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, "sleep", "60")
    await engine.create(spec, await engine.pull(spec), {})
    await engine.start(spec)
    started_at = (await engine.inspect(spec)).started_at
    assert started_at is not None
    host = negotiated(DockerHost(base_url=f"tcp://127.0.0.1:{port}"))
    with contextlib.closing(host.get_client()) as client:
        sampler = Sampler(client, spec.name)
        sampler.start()
        deadline = time.monotonic() + 60
        while not sampler.measured.usage.samples:
            assert time.monotonic() < deadline, "no sample comes"
            await asyncio.sleep(0.01)
        sampler.stop()
        assert sampler.join(60)
        await engine.destroy(spec)
        evidence = read_evidence(client, spec.name, started_at)
    assert evidence == Evidence((9,), exit_code=137, destroyed=True)
