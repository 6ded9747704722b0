"""A real haproxy with the stack's file: the runner's calls pass, everything else is refused."""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus
from uuid import uuid4

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
from flows.spec import ContainerSpec
from flows.workspace.folder import Workspace
from tests.conftest import IN_CI
from tests.runs import BUSYBOX, left_on_engine, payload
from tests.specs import Collector, compiled, new_run

CONFIG = Path(__file__).parent.parent / "deploy/docker-proxy/haproxy.cfg"
SOCKET = Path(os.environ.get("DOCKER_HOST", "/var/run/docker.sock").removeprefix("unix://"))

pytestmark = pytest.mark.docker


def unavailable(reason: str) -> None:
    if IN_CI:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A port of loopback where the proxy answers; it lets bind mounts through, as the worker of
    these tests is no container."""
    with haproxy_at(DOCKER_PROXY_BIND_MOUNTS="allow") as number:
        yield number


@contextmanager
def haproxy_at(config: Path = CONFIG, **more: str) -> Iterator[int]:
    """Run the real haproxy with the stack's file, or another; yields its port."""
    # Debian keeps it where only root's PATH leads.
    haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if not haproxy:
        unavailable("haproxy is not installed")
    if not SOCKET.is_socket():
        unavailable("the Docker Engine has no socket on this machine that haproxy could go to")
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    settings = {
        "DOCKER_PROXY_BIND": f"127.0.0.1:{number}",
        "DOCKER_PROXY_SOCKET": str(SOCKET),
        **more,
    }
    command = [str(haproxy), "-db", "-f", str(config)]
    with subprocess.Popen(command, env=os.environ | settings) as process:
        try:
            until_it_listens(process, number)
            yield number
        finally:
            process.terminate()


def until_it_listens(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert process.poll() is None, f"haproxy ended with {process.returncode}"
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("haproxy does not listen")


@pytest.fixture
async def engine(port: int, outside_a_run: None) -> AsyncIterator[DockerEngine]:
    async with DockerEngine(host=DockerHost(base_url=f"tcp://127.0.0.1:{port}")) as through_proxy:
        yield through_proxy


@pytest.fixture
def volume() -> Iterator[str]:
    """The name of a volume that does not exist yet, and will not afterwards."""
    name = f"proxy-test-{uuid4().hex}"
    yield name
    subprocess.run(["docker", "volume", "rm", "--force", name], check=True, capture_output=True)


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


async def test_a_run_that_is_stopped_goes_through(engine: DockerEngine, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "sh", "-c", "echo up; sleep 60", timeoutSeconds=1)
    sink = Collector()
    outcome = await execution.run(engine, spec, sink)
    assert (outcome.name, outcome.cleanup_error) == (OutcomeName.TIMED_OUT, None)
    assert sink.output == b"up\n"


async def test_a_workspace_in_a_volume_goes_through(
    engine: DockerEngine, volume: str, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, "touch", "file", volume=volume)
    makes = ["mkdir", "-p", f"/jobs/{spec.job_id}/repo"]
    subprocess.run(
        ["docker", "run", "--rm", "--volume", f"{volume}:/jobs", BUSYBOX, *makes], check=True
    )
    outcome = await execution.run(engine, spec, Collector())
    assert (outcome.name, outcome.error, outcome.cleanup_error) == ("succeeded", None, None)
    assert left_on_engine(spec.job_id) == []


@pytest.mark.parametrize("kind", ["bind", "volume"])
async def test_giving_the_files_of_a_job_back_goes_through(
    engine: DockerEngine, volume: str, tmp_path: Path, kind: str
) -> None:
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


async def test_the_sweep_sees_and_removes_what_is_ours(
    engine: DockerEngine, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, "true")
    await engine.create(spec, await engine.pull(spec), {})
    (ours,) = [each for each in await engine.owned() if each.job_id == spec.job_id]
    assert (ours.kind, ours.name) == ("container", spec.name)
    assert await engine.discard(ours)
    assert not await engine.discard(ours)


async def test_a_pull_reaches_the_engine(engine: DockerEngine, tmp_path: Path) -> None:
    spec = replace(spec_of(tmp_path, "true"), image="127.0.0.1:1/none:1", pull="always")
    with pytest.raises(ImageError) as refused:
        await engine.pull(spec, PullOptions(tries=1))
    assert "proxy" not in str(refused.value)


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
        deadline = time.monotonic() + 20
        while not sampler.measured.usage.samples:
            assert time.monotonic() < deadline, "no sample comes"
            await asyncio.sleep(0.01)
        sampler.stop()
        assert sampler.join(5)
        await engine.destroy(spec)
        evidence = read_evidence(client, spec.name, started_at)
    assert evidence == Evidence((9,), exit_code=137, destroyed=True)


def events_of(*containers: str) -> str:
    """The filter that the runner asks with, as a part of an address."""
    filters = {"container": containers, "event": ["die"], "type": ["container"]}
    return quote_plus(json.dumps(filters, separators=(",", ":")))


# An id that no container has: what the proxy lets through, the engine answers with 404.
ID = "0" * 64


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/containers/{ID}/exec"),
        ("POST", f"/containers/{ID}/kill"),
        ("POST", f"/containers/{ID}/update"),
        ("POST", f"/containers/{ID}/json"),
        ("GET", f"/containers/{ID}/attach"),
        ("GET", f"/containers/{ID}/attach/ws"),
        ("GET", f"/containers/{ID}/export"),
        ("GET", f"/containers/{ID}/archive"),
        ("PUT", f"/containers/{ID}/archive"),
        ("POST", "/exec/1/start"),
        ("GET", "/containers/json"),
        ("POST", "/containers/prune"),
        ("POST", "/containers/create"),
        ("POST", "/containers/create?name=postgres"),
        ("POST", "/containers/create?name=postgres-files"),
        # A container of somebody else, by its name or by a short form of its id.
        ("GET", "/containers/postgres/json"),
        ("POST", "/containers/postgres/stop"),
        ("DELETE", "/containers/postgres"),
        ("GET", f"/containers/{ID[:12]}/json"),
        ("GET", "/volumes"),
        ("POST", "/volumes/prune"),
        ("DELETE", "/volumes/postgres_data"),
        ("POST", "/build"),
        ("POST", "/commit"),
        ("POST", "/images/create?fromSrc=-"),
        ("POST", "/images/load"),
        ("POST", "/images/busybox/push"),
        ("DELETE", "/images/busybox"),
        ("GET", "/images/json"),
        ("POST", "/distribution/busybox/json"),
        ("GET", "/distribution/json"),
        ("GET", "/distribution/busybox"),
        ("GET", "/distribution/../containers/json"),
        ("GET", "/images/../containers/json"),
        ("GET", "/images/%2e%2e/containers/json"),
        ("POST", "/swarm/init"),
        ("GET", "/secrets"),
        ("GET", "/configs"),
        ("GET", "/services"),
        ("GET", "/plugins"),
        ("POST", "/plugins/pull"),
        ("GET", "/networks"),
        ("POST", "/networks/create"),
        ("POST", "/auth"),
        ("POST", "/session"),
        ("GET", "/containers/postgres/stats"),
        ("GET", "/events"),
        ("GET", f"/events?since=1&until=2&filters={events_of('postgres')}"),
        # Without an end; with a second container; with a parameter that only the engine decodes.
        ("GET", f"/events?since=1&filters={events_of('mm-task-1')}"),
        ("GET", f"/events?since=1&until=2&filters={events_of('mm-task-1', 'postgres')}"),
        ("GET", f"/events?%66ilters=&since=1&until=2&filters={events_of('mm-task-1')}"),
        ("POST", f"/events?since=1&until=2&filters={events_of('mm-task-1')}"),
        ("GET", "/system/df"),
        ("GET", "/info"),
        ("GET", "/v1.41/info"),
        ("GET", "//info"),
        ("GET", "/v1.41//info"),
        ("GET", "/version"),
        ("GET", "/v1.41/v1.41/_ping"),
        ("POST", "/_ping"),
        ("GET", "/"),
    ],
)
def test_what_the_runner_does_not_call_is_refused(port: int, method: str, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    assert (answer.status, b"docker-proxy" in answer.read()) == (403, True)
    connection.close()


def created(port: int, host_config: str, path: str = "/containers/create?name=mm-task-1") -> int:
    """The status of the answer to a creation; `host_config` is JSON as somebody may write it."""
    body = f'{{"Image": "none-{ID}", "HostConfig": {host_config}}}'
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize(
    "host_config",
    [
        '{"Privileged": true}',
        '{"privileged":true}',
        '{"PRIVILEGED"  :\n true}',
        '{"Pr\\u0069vileged": true}',
        '{"PidMode": "host"}',
        '{"pidmode": "container:db"}',
        '{"NetworkMode": "host"}',
        '{"IpcMode": "host"}',
        '{"UTSMode": "host"}',
        '{"CgroupnsMode": "host"}',
        '{"Binds": ["/:/host"]}',
        '{"Devices": [{"PathOnHost": "/dev/sda"}]}',
        '{"DeviceCgroupRules": ["a *:* rwm"]}',
        '{"VolumesFrom": ["db"]}',
        '{"CapAdd": ["SYS_ADMIN"]}',
        '{"CapAdd": ["NET_ADMIN", "CAP_SYS_PTRACE"]}',
        '{"capadd": ["ALL"]}',
        '{"SecurityOpt": ["seccomp=unconfined"]}',
        '{"SecurityOpt": ["no-new-privileges", "apparmor:unconfined"]}',
        '{"x": "' + 900_000 * "x" + '"}',
    ],
    ids=lambda text: text[:40],
)
def test_a_container_with_more_rights_than_a_tasks_is_refused(port: int, host_config: str) -> None:
    assert created(port, host_config) == 403


@pytest.mark.parametrize(
    "host_config",
    [
        '{"Privileged": false, "NetworkMode": "bridge", "Binds": null, "Devices": []}',
        '{"CapAdd": ["CHOWN", "DAC_READ_SEARCH"], "CapDrop": ["ALL"], "UsernsMode": "host"}',
        '{"Env": ["A=\\"privileged\\": true", "B=\\u00fc"]}',
        '{"x": "' + 600_000 * "x" + '"}',
    ],
    ids=lambda text: text[:40],
)
def test_a_container_of_a_tasks_kind_is_for_the_engine_to_check(
    port: int, host_config: str
) -> None:
    # It has no such image.
    assert created(port, host_config) == 404


def test_a_body_of_unknown_length_is_refused(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    pieces = (each for each in (b'{"Image": "none"', b', "HostConfig": {}}'))
    connection.request("POST", "/containers/create?name=mm-task-1", pieces)
    assert connection.getresponse().status == 403
    connection.close()


@pytest.mark.parametrize("version", ["1.12", "1.9", "1.23"])
def test_an_api_version_that_starts_a_container_with_settings_is_refused(
    port: int, version: str
) -> None:
    path = f"/v{version}/containers/{ID}/start"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", path, '{"Privileged": true}', {"Content-Type": "application/json"})
    assert connection.getresponse().status == 403
    connection.close()


def test_a_bind_mount_is_refused_unless_it_is_allowed(port: int) -> None:
    mounts = '{"Mounts": [{"Source": "/", "Target": "/host", "type" : "bind"}]}'
    assert created(port, mounts) == 404
    with haproxy_at() as strict:
        assert created(strict, mounts) == 403
        assert created(strict, mounts.replace("bind", "volume")) in (400, 404)
