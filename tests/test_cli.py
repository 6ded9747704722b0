"""The command `container-task`, started as a user starts it."""

import json
import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.cli import commands
from flows.cli.console import ExitStatus
from flows.outcome import OutcomeName
from flows.text import shown_lines
from scripts.stack import ROOT
from tests.command import COMMAND, Here, Result, container_task, environment
from tests.strategies import FULL, enabled


def checked(payload: str, capsys: pytest.CaptureFixture[str]) -> Result:
    """`container-task check` in this process."""
    return Here(capsys)("check", payload)


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
        "owner": "",
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


def test_faults_are_json_where_json_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "payload.json").write_text(json.dumps(enabled(image="UPPER")))
    result = Here(capsys)("check", str(tmp_path / "payload.json"), "--json")
    assert (result.status, result.err) == (2, "")
    assert [fault["path"] for fault in result.json["faults"]] == ["task.container.image"]
    assert result.json["exitStatus"] == 2


def test_what_is_no_word_of_the_command_is_refused_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = Here(capsys)("sumbit", "payload.json")
    assert result.status == ExitStatus.BAD_INPUT
    assert 'Did you mean "submit"?' in " ".join(result.err.split())


def test_help_and_check_load_neither_prefect_nor_docker() -> None:
    program = (
        "import sys\nfrom flows.cli import app\n"
        "app(sys.argv[1:], result_action='return_value')\n"
        "print({'prefect', 'docker', 'httpx'} & set(sys.modules), file=sys.stderr)"
    )
    for words in (["--help"], ["check", str(ROOT / "examples/hello.json")]):
        done = subprocess.run(
            [COMMAND.with_name("python"), "-c", program, *words],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == "set()\n"


def test_bash_completes_the_commands_and_their_options(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    result = container_task("--install-completion", "--shell", "bash", "--output", str(script))
    assert result.status == 0, result.err
    asking = (
        f"source {script}; complete() {{ :; }}; "
        'tell() { COMP_WORDS=(container-task "$@"); COMP_CWORD=$#; COMPREPLY=(); '
        "_container_task; echo ${COMPREPLY[*]}; }; tell sub; tell submit --wa"
    )
    done = subprocess.run(["bash", "-c", asking], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["submit", "--watch"], done.stderr


def test_every_outcome_has_an_exit_status_of_its_own() -> None:
    statuses = [ExitStatus[name.name] for name in OutcomeName]
    assert len(set(statuses)) == len(OutcomeName)
    assert ExitStatus.SUCCEEDED.value == 0


def test_the_page_has_every_exit_status_and_every_command() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    told = re.findall(r"^\| (\d+) \| \w", page, re.MULTILINE)
    assert sorted(map(int, told)) == sorted(ExitStatus)
    for name in commands.app:
        assert name.startswith("-") or f"\n| `container-task {name}" in page, name


def test_the_docstring_names_every_module_of_the_command() -> None:
    modules = {path.stem for path in (ROOT / "flows/cli").glob("*.py")} - {"__init__"}
    assert {name for name in modules if f"`{name}`" not in str(cli.__doc__)} == set()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("submit",), 'Command "submit" parameter PAYLOAD requires an argument.'),
        (("doctor", "--only", "nonsense"), 'Invalid value "nonsense" for --only.'),
        (("logs", "a", "--nope"), "Unknown option: --nope."),
        (("sumbit", "a"), 'Did you mean "submit"?'),
    ],
)
def test_words_that_are_wrong_are_told_in_one_sentence_or_as_json(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    plain = Here(capsys)(*words)
    assert (plain.status, plain.out) == (ExitStatus.BAD_INPUT, "")
    assert says in plain.err
    assert plain.err.endswith(" --help.\n")
    assert len(plain.err.splitlines()) == 1
    told = Here(capsys)(*words, "--json")
    assert (told.status, told.err) == (ExitStatus.BAD_INPUT, "")
    assert says in told.json["error"]
    assert told.json["exitStatus"] == ExitStatus.BAD_INPUT


@pytest.mark.parametrize(
    "words", [("check", "examples/hello.json"), ("doctor", "--only", "host")], ids=" ".join
)
def test_a_reader_that_goes_away_ends_the_command_with_the_status_of_its_signal(
    words: tuple[str, ...],
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [COMMAND, *words],
            cwd=ROOT,
            env=environment(),
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (ExitStatus.BROKEN_PIPE, "")


@pytest.mark.parametrize(
    ("raw", "shown", "coloured"),
    [
        ("plain", "plain", "plain"),
        ("\x1b[31mred\x1b[0m", "red", "\x1b[31mred\x1b[0m\x1b[0m"),
        ("\x1b[2Jcleared\x1b[1;1H", "cleared", "cleared"),
        ("\x1b]0;title\x07text", "text", "text"),
        ("\x1b]52;c;aGVsbG8=\x1b\\text", "text", "text"),
        ("10 %\r50 %\r100 %\r\nnext", "100 %\nnext", "100 %\nnext"),
        ("bell\x07 and \x9b2J", "bell and ", "bell and "),
        ("cut \x1b\x1b[2Jshort\x1b", "cut short", "cut short"),
        ("\x1b[31m\x1b]0;\u202ereversed", "", "\x1b[31m\x1b[0m"),
        ("\u202ereversed\x08", "\\u202ereversed\\x08", "\\u202ereversed\\x08"),
        ("cut off \x1b[31", "cut off 31", "cut off 31"),
        ("a\tb", "a\tb", "a\tb"),
    ],
)
def test_what_a_container_wrote_moves_no_cursor(raw: str, shown: str, coloured: str) -> None:
    assert shown_lines(raw) == shown
    assert shown_lines(raw, colours=True) == coloured
