"""The command `container-task`, started as a user starts it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from tests.strategies import FULL, enabled

COMMAND = Path(sys.executable).with_name("container-task")


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


def container_task(*arguments: str, stdin: str = "", **environment: str) -> Result:
    """The console script in a process of its own, with nothing of this one's settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MOONMIND_")}
    done = subprocess.run(
        [COMMAND, *arguments],
        input=stdin,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def checked(payload: str, capsys: pytest.CaptureFixture[str]) -> Result:
    """`container-task check` in this process: a start of Prefect takes two seconds."""
    status = cli.check(payload)
    captured = capsys.readouterr()
    return Result(status, captured.out, captured.err)


def test_check_prints_the_canonical_payload_and_the_spec(tmp_path: Path) -> None:
    raw = FULL | {"repository": "https://bot:hunter2@example.org/a.git"}
    (tmp_path / "payload.json").write_text(json.dumps(raw))
    result = container_task(
        "check",
        str(tmp_path / "payload.json"),
        MOONMIND_WORKDIR="/srv/jobs",
        MOONMIND_WORKER_NAME="host-1",
    )
    assert (result.status, result.err) == (0, "")
    assert "hunter2" not in result.out
    printed = json.loads(result.out)
    assert set(printed) == {"payload", "spec"}
    assert printed["payload"]["repository"] == "https://example.org/a.git"
    assert printed["payload"]["requiredCapabilities"] == ["docker", "git"]
    assert printed["spec"]["image"] == "mcr.microsoft.com/dotnet/sdk:8.0"
    assert printed["spec"]["workdir"] == "/work/agent_jobs/<job_id>/repo"
    assert printed["spec"]["mounts"][0] == {
        "kind": "bind",
        "source": "/srv/jobs/<job_id>",
        "target": "/work/agent_jobs/<job_id>",
        "subpath": "",
    }


def test_check_reads_standard_input_and_tells_faults_a_line_each() -> None:
    raw = enabled(image="UPPER", **{"time\nout": 1}) | {"repository": "file:///srv/hunter2"}
    result = container_task("check", "-", stdin=json.dumps(raw))
    assert (result.status, result.out) == (2, "")
    assert sorted(line.partition(": ")[0] for line in result.err.splitlines()) == [
        "repository",
        "task.container.image",
        'task.container["time\\nout"]',
    ]
    assert "hunter2" not in result.err
    assert all("; " in line for line in result.err.splitlines())


def test_the_version_is_the_distributions() -> None:
    assert container_task("--version").out.strip() == version("moonmind-container-runner")


def test_help_names_the_command_and_what_it_does() -> None:
    result = container_task("check", "--help")
    assert result.status == 0
    assert "container-task check" in result.out
    assert "touch neither Docker nor Prefect" in " ".join(result.out.split())
    assert "standard input" in result.out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not JSON: Expecting value at line 1, column 1"),
        (b"{\n  'a': 1}", "is not JSON: Expecting property name"),
        (b'{"a": "\xff"}', "is not UTF-8 text (byte 7)"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "a number is too long"),
    ],
)
def test_a_file_that_is_no_json_is_refused_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, says: str
) -> None:
    file = tmp_path / "payload.json"
    file.write_bytes(content)
    result = checked(str(file), capsys)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"{file}: ")
    assert says in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(("name", "says"), [("nothing", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, says: str
) -> None:
    result = checked(str(tmp_path / name), capsys)
    assert result.status == 2
    assert f"cannot be read: {says}" in result.err


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ([], "payload"),
        ({"a": float("nan")}, "a"),
        ({}, "task.container.enabled"),
        ({"task": {"publish": {"mode": "pr"}, **enabled()["task"]}}, "task.publish.mode"),
    ],
)
def test_a_payload_that_this_runner_does_not_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: Any, path: str
) -> None:
    (tmp_path / "payload.json").write_text(json.dumps(raw))
    result = checked(str(tmp_path / "payload.json"), capsys)
    assert (result.status, result.out) == (2, "")
    assert [line.partition(": ")[0] for line in result.err.splitlines()] == [path]


def test_a_wrong_setting_of_the_host_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_text(json.dumps(FULL))
    result = container_task(
        "check", str(tmp_path / "payload.json"), MOONMIND_CONTAINER_TIMEOUT_SECONDS="abc"
    )
    assert (result.status, result.out) == (2, "")
    assert result.err == (
        "MOONMIND_CONTAINER_TIMEOUT_SECONDS is 'abc' on this worker, but takes a whole number of "
        "seconds, 1 or more\n"
    )
