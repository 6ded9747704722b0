"""`container-task doctor`: it finds each fault of a host, and says what is wrong and what to do."""

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest
from prefect_docker import DockerRegistryCredentials

from blocks.policy import ContainerPolicy
from blocks.storage import ArtifactStorage
from flows import checkup_blocks, checkup_host, checkup_prefect, probe
from flows.checkup import Check, Finding, Level, Part, carry_out, ok
from flows.checkup_engine import EngineChecks, judge_clock, probed
from flows.checkup_prefect import PrefectChecks
from flows.cli.checkups import Examination, chosen
from flows.outcomes import Outcome, OutcomeName
from scripts.stack import DEPLOYMENT, Stack
from tests.command import container_task, server_at
from tests.cutting_proxy import CuttingProxy
from tests.registry import PASSWORD, USER, Registry
from tests.runs import BUSYBOX
from tests.test_docker_proxy import haproxy_at

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def only(findings: Sequence[Finding], level: Level) -> Finding:
    """The one finding of that level."""
    found = [each for each in findings if each.level is level]
    assert len(found) == 1, findings
    return found[0]


def assert_all_ok(findings: Sequence[Finding]) -> None:
    assert {each.level for each in findings} == {Level.OK}, findings


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`MOONMIND_WORKDIR` of a host whose helper image is there."""
    monkeypatch.setenv("MOONMIND_WORKDIR", str(tmp_path / "jobs"))
    monkeypatch.setenv("MOONMIND_HELPER_IMAGE", BUSYBOX)
    return tmp_path / "jobs"


def ours_on_engine() -> list[str]:
    words = ["docker", "ps", "--all", "--quiet", "--filter", "label=moonmind.worker=the-doctor"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.docker
@pytest.mark.server
def test_a_good_host_has_no_fault_and_nothing_stays_behind(stack: Stack, tmp_path: Path) -> None:
    result = container_task(
        "doctor",
        "--json",
        MOONMIND_WORKDIR=str(tmp_path / "none/yet"),
        MOONMIND_HELPER_IMAGE=BUSYBOX,
        MOONMIND_WORKER_NAME="the-doctor",
        PREFECT_API_URL=f"{stack.address}/api",
    )
    findings = result.json["findings"]
    levels = {each["name"]: each["level"] for each in findings}
    assert "fault" not in levels.values(), findings
    assert levels.pop("policy") == "ok"
    assert "skipped" not in levels.values(), findings
    assert (result.status, result.json["healthy"]) == (0, True)
    assert not (tmp_path / "none").exists()
    assert ours_on_engine() == []


@pytest.mark.docker
def test_faults_come_with_what_to_do_and_an_exit_status(tmp_path: Path) -> None:
    result = container_task(
        "doctor",
        DOCKER_HOST="unix:///nowhere/docker.sock",
        PREFECT_API_URL="http://127.0.0.1:9/api",
        MOONMIND_WORKDIR=str(tmp_path / "jobs"),
    )
    assert (result.status, result.err) == (1, "")
    assert "Docker at unix:///nowhere/docker.sock does not answer" in result.out
    assert "start the engine, or name the right one in DOCKER_HOST" in result.out
    assert "Prefect's API at http://127.0.0.1:9/api does not answer" in result.out
    assert "skipped   work pool" not in result.out
    assert (
        "skipped   deployment                not looked at, because of Prefect's API" in result.out
    )
    assert "2 faults" in result.out


async def test_checks_run_together_and_none_holds_the_others_up() -> None:
    both = asyncio.Barrier(2)

    async def meeting() -> Sequence[Finding]:
        await both.wait()
        return [ok("a", "met")]

    async def hanging() -> Sequence[Finding]:
        await asyncio.Event().wait()
        raise AssertionError

    async def broken() -> Sequence[Finding]:
        raise RuntimeError("out of order")

    async def never() -> Sequence[Finding]:
        raise AssertionError("its need has a fault")

    checks = [
        Check("one", Part.HOST, meeting),
        Check("two", Part.HOST, meeting),
        Check("slow", Part.HOST, hanging, seconds=0.2),
        Check("broken", Part.HOST, broken),
        Check("after", Part.HOST, never, needs=("broken",)),
        Check("last", Part.HOST, never, needs=("after",)),
    ]
    heard: list[Sequence[str]] = []
    found = [each for _, each in await carry_out(checks, heard.append)]
    levels = [each.level.value for each in found]
    assert levels == ["ok", "ok", "fault", "fault", "skipped", "skipped"]
    assert found[2].says == "gave no answer within 0 s"
    assert "RuntimeError: out of order" in found[3].says
    assert found[4].says == "not looked at, because of broken"
    assert heard[-1] == ["slow"]


def test_a_part_has_its_checks_and_what_they_need() -> None:
    for part in Part:
        checks = chosen(Examination((part,), DEPLOYMENT, 1.0))
        assert {check.part for check in checks} == {part}
        names = {check.name for check in checks}
        assert all(names.issuperset(check.needs) for check in checks)


# The host.


async def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONMIND_WORKER_CPUS", "many")
    found = only(await checkup_host.settings(), Level.FAULT)
    assert "MOONMIND_WORKER_CPUS is 'many' on this worker" in found.says
    assert "docs/operating.md" in found.mend


async def test_a_git_that_is_missing_or_old_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_all_ok(await checkup_host.git())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "cannot be run here" in only(await checkup_host.git(), Level.FAULT).says
    (tmp_path / "git").write_text("#!/bin/sh\necho git version 2.17.1\n")
    (tmp_path / "git").chmod(0o755)
    found = only(await checkup_host.git(), Level.FAULT)
    assert found.says == "git version 2.17.1 is too old for this runner"
    assert "2.31" in found.mend


async def test_a_folder_that_everybody_shares_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setenv("MOONMIND_WORKDIR", str(shared))
    found = only(await checkup_host.workdir(), Level.FAULT)
    assert f"{shared} is a folder that the users of the host share" in found.says
    assert "MOONMIND_WORKDIR" in found.mend


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("only root may mount a disk")
    monkeypatch.setenv("MOONMIND_WORKDIR", str(folder))
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_disk_without_room_is_told(small_disk: Path) -> None:
    found = only(await checkup_host.room(), Level.FAULT)
    assert found.says.startswith("only 1 MiB are free at ")
    assert str(small_disk) in found.says
    assert "remove old job folders" in found.mend
    (small_disk / "all").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096))
    found = only(await checkup_host.workdir(), Level.FAULT)
    assert "No space left on device" in found.says


@pytest.mark.parametrize(
    ("free_bytes", "free_files", "level"),
    [
        (100 * 1024**3, 10**6, Level.OK),
        (100 * 1024**3, 0, Level.OK),
        (100 * 1024**3, 99, Level.WARNING),
        (5 * 1024**3, 10**6, Level.WARNING),
        (1024**2, 10**6, Level.FAULT),
    ],
)
def test_room_is_judged_by_bytes_and_files(free_bytes: int, free_files: int, level: Level) -> None:
    assert checkup_host.judge_room("disk", "/srv", free_bytes, free_files).level is level


# The engine.


@pytest.mark.docker
async def test_the_engine_passes_with_and_without_the_proxy_of_the_stack(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with haproxy_at(DOCKER_PROXY_BIND_MOUNTS="allow") as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        checks = EngineChecks(quiet_seconds=2)
        assert_all_ok([each for _, each in await carry_out(checks.checks(), lambda _: None)])
    assert not host.exists()


@pytest.mark.docker
async def test_a_proxy_that_refuses_calls_is_told_by_each_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refusing_proxy(tmp_path, "POST .*/attach|DELETE /volumes/.*") as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        checks = EngineChecks(quiet_seconds=1)
        assert_all_ok(await checks.engine())
        found = only(await checks.calls(), Level.FAULT)
    assert f"tcp://127.0.0.1:{port} does not let through" in found.says
    assert "POST /containers/<name>/attach (403: " in found.says
    assert "DELETE /volumes/<name>-workspace (403: " in found.says
    assert "GET" not in found.says
    assert "deploy/docker-proxy/haproxy.cfg" in found.mend


@contextmanager
def refusing_proxy(tmp_path: Path, refused: str) -> Iterator[int]:
    """The stack's proxy without some of what it allows."""
    import tests.test_docker_proxy as proxy

    text = proxy.CONFIG.read_text()
    rule = (
        "    http-request deny deny_status 403 content-type application/json "
        'string \'{"message":"not here"}\' if { var(txn.call) -m reg '
        f"{refused.replace(' ', '[ ]')} }}\n"
    )
    before = '    acl allowed var(txn.call) -m str "GET /_ping"\n'
    assert before in text
    config = tmp_path / "haproxy.cfg"
    config.write_text(text.replace(before, rule + before))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy, "CONFIG", config)
        with haproxy_at(DOCKER_PROXY_BIND_MOUNTS="allow") as port:
            yield port


@pytest.mark.docker
async def test_a_proxy_that_cuts_quiet_connections_is_told_with_the_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with CuttingProxy(2.0) as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.url)
        checks = EngineChecks(quiet_seconds=8)
        assert_all_ok(await checks.engine())
        found = only(await checks.quiet(), Level.WARNING)
    assert found.says.startswith("one was cut after 2.")
    assert proxy.url in found.says
    assert "time-outs" in found.mend


async def test_an_engine_that_is_away_is_told_with_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    found = only(await EngineChecks(1).engine(), Level.FAULT)
    assert "Docker at tcp://127.0.0.1:9 does not answer" in found.says
    assert "DOCKER_HOST" in found.mend


@pytest.mark.docker
async def test_a_workspace_that_the_engine_does_not_have_is_told(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder of this host's, and a volume that is none: what a wrong name in the settings is.
    volume = f"doctor-test-{uuid4().hex}"
    subprocess.run(["docker", "volume", "create", volume], check=True, capture_output=True)
    try:
        monkeypatch.setenv("MOONMIND_CONTAINER_WORKSPACE_VOLUME", volume)
        found = only(await probed(), Level.FAULT)
    finally:
        subprocess.run(["docker", "volume", "rm", volume], check=True, capture_output=True)
    assert found.name == probe.WORKSPACE
    assert f"{host} ({volume})" in found.says
    assert "MOONMIND_CONTAINER_WORKSPACE_VOLUME" in found.mend
    assert not host.exists()


@pytest.mark.docker
async def test_a_helper_image_that_cannot_be_had_is_told(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONMIND_HELPER_IMAGE", "127.0.0.1:9/none:1")
    found = only(await probed(), Level.FAULT)
    assert found.name == probe.IMAGE
    assert "127.0.0.1:9/none:1" in found.says
    assert "MOONMIND_HELPER_IMAGE" in found.mend


def test_a_container_that_sees_another_folder_is_told_either_way() -> None:
    outcome, words = Outcome(OutcomeName.SUCCEEDED), ("ours", "theirs")
    other = probe.judge_workspace(outcome, probe.Seen({"word": ""}, None), words, "/jobs")
    assert other.level is Level.FAULT
    assert "a container does not see in /jobs what this process wrote" in other.says
    lost = probe.judge_workspace(outcome, probe.Seen({"word": "ours"}, None), words, "/jobs")
    assert "this process does not see in /jobs what a container wrote" in lost.says
    same = probe.judge_workspace(outcome, probe.Seen({"word": "ours"}, "theirs"), words, "/jobs")
    assert same.level is Level.OK


V2 = {
    "memory.max": "33554432",
    "memory.swap.max": "0",
    "cpu.max": "50000 100000",
    "pids.max": "64",
}


@pytest.mark.parametrize(
    ("told", "level", "says"),
    [
        (V2, Level.OK, "by cgroup v2"),
        (V2 | {"cpu.max": "max 100000"}, Level.FAULT, "holds no container to: CPU"),
        (V2 | {"memory.max": "max", "pids.max": "max"}, Level.FAULT, "memory, processes"),
        (V2 | {"memory.swap.max": "max"}, Level.WARNING, "but not swap"),
        ({}, Level.FAULT, "memory, CPU, processes"),
    ],
)
def test_limits_that_do_not_hold_are_named(told: dict[str, str], level: Level, says: str) -> None:
    (found,) = probe.judge_limits(told)
    assert found.level is level
    assert says in found.says
    assert found.mend or level is Level.OK


def test_an_engine_that_is_silent_about_memory_kills_is_told() -> None:
    found = probe.judge_memory_kill(Outcome(OutcomeName.FAILED, exit_code=137))
    assert found.level is Level.WARNING
    assert "ended failed" in found.says


# Prefect's server.


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
    found = judge_clock("clock", "the engine's host", theirs, NOW)
    assert found.level is level
    assert says in found.says


class WrongClock(BaseHTTPRequestHandler):
    """Says that it is an hour later."""

    def do_GET(self) -> None:
        self.send_response_only(200)
        self.send_header("Date", format_datetime(datetime.now(UTC) + timedelta(hours=1), True))
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_server_with_a_wrong_clock_is_told() -> None:
    with serving(WrongClock) as url, server_at(url):
        found = only(await checkup_prefect.clock(), Level.FAULT)
    assert "the clock of Prefect's server is 3600 s ahead of this one's" in found.says
    assert "NTP" in found.mend


async def test_no_server_and_one_that_is_away_are_told() -> None:
    with server_at(None):
        found = only(await checkup_prefect.api(), Level.FAULT)
    assert found.says.startswith("PREFECT_API_URL is not set")
    with server_at("http://127.0.0.1:9/api"):
        found = only(await checkup_prefect.api(), Level.FAULT)
    assert found.says.startswith("Prefect's API at http://127.0.0.1:9/api does not answer")
    assert "PREFECT_API_URL" in found.mend


@pytest.fixture
def served(stack: Stack) -> Iterator[Stack]:
    with server_at(f"{stack.address}/api"):
        yield stack


async def way(deployment: str) -> Sequence[Finding]:
    return await PrefectChecks(deployment).way()


@pytest.mark.server
async def test_the_way_of_a_run_is_told_where_it_is_open(served: Stack) -> None:
    assert_all_ok(await way(DEPLOYMENT))


@pytest.mark.server
async def test_a_deployment_that_is_missing_is_told(served: Stack) -> None:
    found = only(await way("container-task/none"), Level.FAULT)
    assert found.says == "there is no deployment container-task/none on this server"
    assert "prefect deploy --all" in found.mend


@pytest.fixture
def lonely(served: Stack) -> Iterator[str]:
    """A pool without a worker, and a deployment for it."""
    served.create_pool("lonely")
    yield served.deploy_to("lonely")
    served.api("DELETE", "/work_pools/lonely")


@pytest.mark.server
async def test_a_pool_that_is_paused_missing_or_without_worker_is_told(
    served: Stack, lonely: str
) -> None:
    found = only(await way(lonely), Level.WARNING)
    assert found.says == "no worker of the pool lonely is online: what is submitted waits"
    assert found.mend == "start one: prefect worker start --pool lonely"
    for change, says, mend in (
        ({"is_paused": True}, "is paused", "prefect work-pool resume lonely"),
        ({"is_paused": False, "concurrency_limit": 0}, "limit of 0", "clear-concurrency-limit"),
    ):
        served.api("PATCH", "/work_pools/lonely", **change).raise_for_status()
        found = only(await way(lonely), Level.FAULT)
        assert says in found.says
        assert mend in found.mend


@pytest.mark.server
async def test_a_pool_of_another_type_is_told(served: Stack) -> None:
    served.create_pool("cloudy", "kubernetes")
    try:
        found = only(await way(served.deploy_to("cloudy")), Level.FAULT)
    finally:
        served.api("DELETE", "/work_pools/cloudy")
    assert "the pool cloudy is of the type kubernetes" in found.says
    assert "--type container-task" in found.mend


@pytest.mark.server
async def test_a_queue_that_is_paused_is_told(served: Stack, lonely: str) -> None:
    queue = served.api("GET", "/work_pools/lonely/queues/default").json()
    change = {"is_paused": True, "name": queue["name"]}
    served.api("PATCH", "/work_pools/lonely/queues/default", **change).raise_for_status()
    found = only(await way(lonely), Level.FAULT)
    assert found.says == "the queue default of the pool lonely is paused: its runs wait"
    assert found.mend == "resume it: prefect work-queue resume default --pool lonely"


@pytest.mark.server
async def test_a_sweep_that_nobody_does_is_told(served: Stack) -> None:
    assert_all_ok(await checkup_prefect.sweep())
    sweep = served.api("GET", "/deployments/name/reap-orphans/docker").json()
    served.api("POST", f"/deployments/{sweep['id']}/pause_deployment").raise_for_status()
    try:
        found = only(await checkup_prefect.sweep(), Level.WARNING)
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


async def test_blocks_that_are_not_there_are_no_fault(prefect_api: None) -> None:
    assert_all_ok(await checkup_blocks.policy())
    assert_all_ok(await checkup_blocks.storage())
    assert_all_ok(await checkup_blocks.registries())


async def test_the_rules_in_force_are_told(saved: Callable[..., Awaitable[None]]) -> None:
    await saved(ContainerPolicy(allowed_images=["gcc:*"]))
    assert "images: gcc:*" in only(await checkup_blocks.policy(), Level.OK).says


async def test_a_storage_that_takes_files_is_left_as_it_was(
    saved: Callable[..., Awaitable[None]], tmp_path: Path
) -> None:
    await saved(ArtifactStorage(url=f"file://{tmp_path}"))
    assert_all_ok(await checkup_blocks.storage())
    assert list(tmp_path.iterdir()) == []


async def test_a_storage_that_takes_no_files_is_told(
    saved: Callable[..., Awaitable[None]], tmp_path: Path
) -> None:
    # Not even root makes a folder in a file.
    (tmp_path / "file").write_text("")
    await saved(ArtifactStorage(url=f"file://{tmp_path}/file/results"))
    found = only(await checkup_blocks.storage(), Level.FAULT)
    assert f"file://{tmp_path}/file/results does not take files" in found.says
    assert "credentials" in found.mend


async def test_a_storage_of_an_unknown_protocol_is_told(
    saved: Callable[..., Awaitable[None]],
) -> None:
    await saved(ArtifactStorage(url="nonsense://bucket"))
    found = only(await checkup_blocks.storage(), Level.FAULT)
    assert "the protocol nonsense of nonsense://bucket" in found.says


@pytest.mark.docker
async def test_a_log_in_is_tried_and_a_wrong_one_told_without_its_password(
    saved: Callable[..., Awaitable[None]], private_registry: Registry
) -> None:
    good = DockerRegistryCredentials(
        username=USER, password=PASSWORD, registry_url=private_registry.host
    )
    await saved(good, "good")
    assert_all_ok(await checkup_blocks.registries())
    bad = DockerRegistryCredentials(
        username=USER, password="wrong-horse", registry_url=private_registry.host
    )
    await saved(bad, "bad")
    found = only(await checkup_blocks.registries(), Level.FAULT)
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
    with haproxy_at() as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        found = only(await checkup_blocks.registries(), Level.WARNING)
    assert "could not be tried" in found.says
    assert "without a proxy" in found.mend
