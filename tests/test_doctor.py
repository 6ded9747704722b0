"""`container-task doctor`: it finds each fault of a host, and says what is wrong and what to do."""

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from flows.cli.console import Console
from flows.cli.doctor import probe
from flows.cli.doctor.checkup import (
    Check,
    Finding,
    Level,
    Part,
    check_git,
    check_room,
    check_settings,
    check_workdir,
    ok,
    room_finding,
    run_checks,
)
from flows.cli.doctor.command import chosen
from flows.cli.doctor.engine import EngineChecks, check_tasks, quiet_finding
from flows.engine.docker.probe import Call, Obstacle, Quiet, refusal
from flows.outcome import Outcome, OutcomeName
from scripts.stack import DEPLOYMENT, Stack
from tests import host_mistakes
from tests.command import Here, server_at
from tests.docker_proxy import docker_proxy
from tests.findings import assert_all_ok, only
from tests.gateway import Gateway, Said
from tests.host_mistakes import Told, tells
from tests.runs import BUSYBOX

NOW = datetime(2026, 1, 1, tzinfo=UTC)


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
def test_a_good_host_has_no_fault_and_nothing_stays_behind(
    stack: Stack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MOONMIND_WORKDIR", str(tmp_path / "none/yet"))
    monkeypatch.setenv("MOONMIND_HELPER_IMAGE", BUSYBOX)
    monkeypatch.setenv("MOONMIND_WORKER_NAME", "the-doctor")
    with server_at(f"{stack.address}/api"):
        result = Here(capsys)("doctor", "--json")
    findings = result.json["findings"]
    levels = {each["name"]: each["level"] for each in findings}
    assert "fault" not in levels.values(), findings
    assert levels.pop("policy") == "ok"
    assert "skipped" not in levels.values(), findings
    assert (result.status, result.json["healthy"]) == (0, True)
    assert not (tmp_path / "none").exists()
    assert ours_on_engine() == []


@pytest.mark.docker
def test_faults_come_with_what_to_do_and_an_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setenv("MOONMIND_WORKDIR", str(tmp_path / "jobs"))
    with server_at("http://127.0.0.1:9/api"):
        result = Here(capsys)("doctor")
    assert (result.status, result.err) == (1, "")
    assert "Docker at unix:///nowhere/docker.sock does not answer" in result.out
    assert "start the engine, or name the right one in DOCKER_HOST" in result.out
    assert "Prefect's API at http://127.0.0.1:9/api does not answer" in result.out
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "skipped deployment not looked at, because of Prefect's API" in lines
    assert result.out.endswith("Mend the faults, from the top, and look again.\n")
    assert re.match(r"2 faults, \w+ warnings?, \d+ skipped, \d ok\.", lines[-2])


@pytest.mark.docker
def test_a_terminal_shows_each_finding_within_its_width(
    host: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setattr(Console, "is_terminal", True)
    out = Here(capsys)("doctor", "--only", "engine").out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[:3] == ["fault", "Docker", "Engine"]
    indent = lines[0].index("Docker at")
    assert lines[1][:indent].strip() == ""
    assert any(line[indent:].startswith("→ ") for line in lines)


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
    found = [each for _, each in await run_checks(checks, heard.append)]
    levels = [each.level.value for each in found]
    assert levels == ["ok", "ok", "fault", "fault", "skipped", "skipped"]
    assert found[2].says == "gave no answer within 0 s"
    assert "RuntimeError: out of order" in found[3].says
    assert found[4].says == "not looked at, because of broken"
    assert heard[-1] == ["slow"]


def test_a_part_has_its_checks_and_silently_what_they_need() -> None:
    everything = {check.name for check in chosen((), DEPLOYMENT, 1.0)}
    told = []
    for part in Part:
        checks = chosen((part,), DEPLOYMENT, 1.0)
        assert all(check.is_silent == (check.part is not part) for check in checks)
        names = {check.name for check in checks}
        assert all(names.issuperset(check.needs) for check in checks)
        told += [check.name for check in checks if not check.is_silent]
    assert sorted(told) == sorted(everything)


async def test_what_another_part_keeps_from_being_looked_at_is_told_with_the_reason(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONMIND_WORKER_CPUS", "many")
    checks = chosen((Part.ENGINE,), DEPLOYMENT, 1.0)
    found = {each.name: each for _, each in await run_checks(checks, lambda _: None)}
    left_out = found["probe container"]
    assert left_out.level is Level.SKIPPED
    assert left_out.says.startswith("not looked at, because of settings: MOONMIND_WORKER_CPUS")
    assert "docs/operating.md" in left_out.mend
    assert "settings" not in found


async def test_registries_that_no_engine_can_try_are_told_to_be_left_out(
    prefect_api: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    checks = chosen((Part.PREFECT,), DEPLOYMENT, 1)
    found = {each.name: each for _, each in await run_checks(checks, lambda _: None)}
    assert "Docker Engine" not in found
    assert found["registries"].level is Level.SKIPPED
    assert found["registries"].says.startswith(
        "not looked at, because of Docker Engine: Docker at tcp://127.0.0.1:9 does not answer"
    )


# The host.


@tells(host_mistakes.SETTING)
async def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    monkeypatch.setenv("MOONMIND_WORKER_CPUS", "many")
    found = only(await check_settings(), Level.FAULT)
    told(found)


@tells(host_mistakes.OLD_GIT)
async def test_a_git_that_is_missing_or_old_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    assert_all_ok(await check_git())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "cannot be run here" in only(await check_git(), Level.FAULT).says
    (tmp_path / "git").write_text("#!/bin/sh\necho git version 2.17.1\n")
    (tmp_path / "git").chmod(0o755)
    found = only(await check_git(), Level.FAULT)
    told(found)


async def test_a_folder_that_everybody_shares_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setenv("MOONMIND_WORKDIR", str(shared))
    found = only(await check_workdir(), Level.FAULT)
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


@tells(host_mistakes.FULL_DISK)
async def test_a_disk_without_room_is_told(small_disk: Path, told: Told) -> None:
    found = only(await check_room(), Level.FAULT)
    told(found, {str(small_disk): "/work/agent_jobs"})
    (small_disk / "all").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096))
    found = only(await check_workdir(), Level.FAULT)
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
def test_room_is_rated_by_bytes_and_files(free_bytes: int, free_files: int, level: Level) -> None:
    assert room_finding("disk", "/srv", free_bytes, free_files).level is level


# The engine.


@pytest.mark.docker
async def test_the_engine_passes_with_and_without_the_proxy_of_the_stack(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with docker_proxy(DOCKER_PROXY_BIND_MOUNTS="allow") as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        checks = chosen((Part.ENGINE,), DEPLOYMENT, 2)
        assert_all_ok([each for _, each in await run_checks(checks, lambda _: None)])
    assert not host.exists()


@tells(host_mistakes.FORBIDDEN)
@pytest.mark.docker
async def test_a_proxy_that_refuses_calls_is_told_by_each_of_them(
    monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    refused = "POST .*/attach|DELETE /volumes/.*"
    with Gateway() as engine, engine.saying(refused):
        monkeypatch.setenv("DOCKER_HOST", engine.url)
        checks = EngineChecks(quiet_seconds=1)
        assert_all_ok(await checks.check_engine())
        found = only(await checks.check_calls(), Level.FAULT)
    told(found, {engine.url: "tcp://docker.example.org:2375"})


@pytest.mark.docker
@pytest.mark.parametrize(
    ("answer", "says", "mend"),
    [
        (Said(503, "<h1>503 Service Unavailable</h1>"), "(503: 503 Service", "reaches no engine"),
        (Said(400, "blocked"), "(400: blocked)", "DOCKER_HOST"),
        (Said(407, ""), "(407: ", "NO_PROXY"),
    ],
)
async def test_what_is_no_answer_of_an_engine_is_told_with_its_cause(
    monkeypatch: pytest.MonkeyPatch, answer: Said, says: str, mend: str
) -> None:
    with Gateway() as engine, engine.saying("POST .*/(start|wait)", answer):
        monkeypatch.setenv("DOCKER_HOST", engine.url)
        checks = EngineChecks(quiet_seconds=1)
        assert_all_ok(await checks.check_engine())
        found = only(await checks.check_calls(), Level.FAULT)
    assert f"POST /containers/<name>/start, POST /containers/<name>/wait {says}" in found.says
    assert mend in found.mend


LISTING, CALL = Call("GET", "/networks", is_listing=True), Call("POST", "/containers/x/start")


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        (CALL, 404, '{"message":"No such container: x"}'),
        (CALL, 404, "No such container: x\n"),
        (CALL, 500, '{"message":"connection refused"}'),
        (CALL, 503, '{"message":"no registry"}'),
        (CALL, 200, '{"status":"Pulling"}\n{"error":"connection refused"}\n'),
        (LISTING, 200, "[]"),
        (LISTING, 200, ""),
    ],
)
def test_an_engines_own_answer_is_no_refusal(call: Call, status: int, text: str) -> None:
    assert refusal(call, status, text) is None


@pytest.mark.parametrize(
    ("call", "status", "text", "obstacle"),
    [
        (CALL, 403, '{"message":"not here"}', Obstacle.FORBIDDEN),
        (CALL, 404, "page not found", Obstacle.FORBIDDEN),
        (CALL, 407, "", Obstacle.LOG_IN),
        (CALL, 503, "<h1>Service Unavailable</h1>", Obstacle.NO_ENGINE),
        (CALL, 400, "blocked", Obstacle.STRANGE),
        (CALL, 200, "{}", Obstacle.STRANGE),
        (LISTING, 200, "<title>Sign in</title>", Obstacle.STRANGE),
        (LISTING, 400, '{"message":"blocked"}', Obstacle.STRANGE),
    ],
)
def test_what_no_engine_answers_is_a_refusal(
    call: Call, status: int, text: str, obstacle: Obstacle
) -> None:
    found = refusal(call, status, text)
    assert found is not None
    assert found.obstacle is obstacle
    assert "<" not in found.words


@tells(host_mistakes.CUT)
@pytest.mark.docker
async def test_a_proxy_that_cuts_quiet_connections_is_told_with_the_seconds(
    monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    with Gateway(life_seconds=2) as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.url)
        checks = EngineChecks(quiet_seconds=8)
        assert_all_ok(await checks.check_engine())
        found = only(await checks.check_quiet(), Level.WARNING)
        told(found, {proxy.url: "tcp://docker.example.org:2375"})


@pytest.mark.docker
async def test_a_quiet_connection_that_lasts_is_told_with_what_was_not_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Gateway(life_seconds=6) as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.url)
        checks = EngineChecks(quiet_seconds=1)
        assert_all_ok(await checks.check_engine())
        (found,) = await checks.check_quiet()
        assert found.says.startswith(f"one to {proxy.url} lasted ")
    assert found.level is Level.OK
    assert found.says.endswith(
        "longer was not tried: --quiet-seconds 660 tries the time-outs of most proxies"
    )


@pytest.mark.parametrize(
    ("found", "level", "says"),
    [
        (Quiet(75.9, is_ended=True), Level.OK, "lasted 76 s; longer was not tried: --quiet"),
        (Quiet(30.2, is_ended=False), Level.WARNING, "cut after 30 s, and should last 75 s"),
        (Quiet(30.2, is_ended=True), Level.WARNING, "cut after 30 s"),
        (Quiet(85.0, is_ended=False), Level.WARNING, "forgotten on its way"),
    ],
)
def test_a_quiet_connection_is_rated_by_its_length_and_its_end(
    found: Quiet, level: Level, says: str
) -> None:
    finding = quiet_finding(found, 75, "tcp://engine:2375")
    assert finding.level is level
    assert says in finding.says


def test_the_longest_common_time_out_is_told_to_be_the_longest_that_was_tried() -> None:
    finding = quiet_finding(Quiet(661.0, is_ended=True), 660, "tcp://engine:2375")
    assert finding.says == "one to tcp://engine:2375 lasted 661 s; longer was not tried"


@tells(host_mistakes.NO_ENGINE)
async def test_an_engine_that_is_away_is_told_with_its_address(
    monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    found = only(await EngineChecks(1).check_engine(), Level.FAULT)
    real = "tcp://127.0.0.1:9"
    told(found, {real: "tcp://docker.example.org:2375"})


@pytest.mark.docker
async def test_a_workspace_that_the_engine_does_not_have_is_told(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder of this host's, and a volume that is none: what a wrong name in the settings is.
    volume = f"doctor-test-{uuid4().hex}"
    subprocess.run(["docker", "volume", "create", volume], check=True, capture_output=True)
    try:
        monkeypatch.setenv("MOONMIND_CONTAINER_WORKSPACE_VOLUME", volume)
        found = only(await check_tasks(), Level.FAULT)
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
    found = only(await check_tasks(), Level.FAULT)
    assert found.name == probe.IMAGE
    assert "127.0.0.1:9/none:1" in found.says
    assert "MOONMIND_HELPER_IMAGE" in found.mend


@tells(host_mistakes.OTHER_FOLDER)
def test_a_container_that_sees_another_folder_is_told_either_way(told: Told) -> None:
    outcome, words = Outcome(OutcomeName.SUCCEEDED), ("ours", "theirs")
    unread, unwritten = probe.Ended(outcome, {"word": ""}), probe.Ended(outcome, {"word": "ours"})
    other = probe.workspace_finding(unread, words, "/work/agent_jobs")
    assert other.level is Level.FAULT
    told(other)
    lost = probe.workspace_finding(unwritten, words, "/jobs")
    assert "this process does not see in /jobs what a container wrote" in lost.says
    same = probe.workspace_finding(replace(unwritten, answer="theirs"), words, "/jobs")
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
    found = probe.limits_finding(told)
    assert found.level is level
    assert says in found.says
    assert found.mend or level is Level.OK


@pytest.mark.docker
def test_the_shell_of_the_task_that_wants_too_much_memory_outlives_three_kills() -> None:
    """At times one at a container's begin or end is not told of."""
    container = probe.memory_task(BUSYBOX)["task"]["container"]
    memory = str(container["resources"]["memory"])
    limits = ["--memory", memory, "--memory-swap", memory]
    ended = subprocess.run(
        ["docker", "run", "--rm", "--init", *limits, BUSYBOX, *container["command"]],
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr.count(b"Killed\n")) == (137, 3), ended.stderr


def test_an_engine_that_is_silent_about_memory_kills_is_told() -> None:
    found = probe.memory_kill_finding(Outcome(OutcomeName.FAILED, exit_code=137))
    assert found.level is Level.WARNING
    assert "ended failed" in found.says
