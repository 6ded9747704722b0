"""`container-task replay`: what ran there runs here again, and can be looked into."""

import os
import pty
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flows.cli import run
from flows.cli.console import CommandError, ExitStatus
from flows.cli.replay.given import given_values
from flows.cli.replay.recording import (
    LABEL_REPLAY,
    is_run_json,
    recording_of,
    recording_of_run_json,
)
from flows.cli.replay.replay import allowing
from flows.errors import PayloadError, PolicyRefused
from flows.payload.parse import parse
from flows.payload.policy import Policy
from flows.payload.policy_check import image_is_allowed
from flows.spec import Output
from scripts.stack import Stack
from tests.command import COMMAND, Here, environment, server_at
from tests.git_server import commit_all, git_daemon
from tests.runs import payload, shell
from tests.specs import compiled
from tests.weather import Weather

DIGEST = f"sha256:{'ab' * 32}"


def kept_containers(folder: Path) -> list[str]:
    """Those of replays in the folder; other tests have theirs at the same time."""
    words = ["docker", "ps", "--all", "--quiet", "--filter", f"label={LABEL_REPLAY}"]
    found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return [each for each in found if str(folder) in _mounts(each)]


def _mounts(container: str) -> str:
    words = ["docker", "inspect", "--format", "{{json .Mounts}}", container]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "replays"


def test_a_recording_pins_image_and_commit() -> None:
    raw = {"task": {"container": {"image": "gcc:14", "pull": "always"}, "git": {"newBranch": "b"}}}
    facts = {"imageDigest": DIGEST, "commit": "c0ffee", "timeoutSeconds": "90"}
    recording = recording_of(raw, facts, "some-id")
    task = recording.pinned()["task"]
    assert task["container"] == {"image": f"gcc:14@{DIGEST}", "pull": "if-missing"}
    assert task["git"] == {"newBranch": "b", "startingBranch": "c0ffee"}
    assert recording.timeout_seconds == 90
    assert raw["task"]["container"] == {"image": "gcc:14", "pull": "always"}


@pytest.mark.parametrize("image", [f"gcc@{DIGEST}", f"gcc:14@{DIGEST}"])
def test_an_image_that_is_pinned_stays_as_it_is(image: str) -> None:
    raw = {"task": {"container": {"image": image}}}
    pinned = recording_of(raw, {"imageDigest": f"sha256:{'cd' * 32}"}, None).pinned()
    assert pinned["task"]["container"]["image"] == image


@pytest.mark.parametrize("raw", [None, [], "text", 5])
def test_what_is_no_payload_cannot_be_repeated(raw: object) -> None:
    with pytest.raises(PayloadError, match="cannot be repeated"):
        recording_of(raw, {}, None)


def test_a_run_json_alone_gives_a_payload_without_the_old_jobs_folder() -> None:
    facts = {
        "jobId": "abc-1",
        "image": "gcc:14",
        "imageDigest": DIGEST,
        "command": ["make"],
        "workdir": "/work/agent_jobs/abc-1/repo/sub",
        "artifactsSubdir": "out",
        "timeoutSeconds": 60,
        "pullMode": "if-missing",
        "limits": {
            "cpus": 0.5,
            "memoryBytes": 64 * 1024**2,
            "pids": 99,
            "shmBytes": 2**20,
            "gpus": None,
        },
        "outputs": [{"path": "*.xml", "required": True, "type": "junit", "missing": False}],
        "repository": "P-H-C/phc-winner-argon2",
        "commit": "c0ffee",
    }
    assert is_run_json(facts)
    recording = recording_of_run_json(facts)
    raw = recording.pinned()
    assert raw["repository"] == "P-H-C/phc-winner-argon2"
    assert raw["task"]["container"]["workdir"] == "/work/agent_jobs/<job_id>/repo/sub"
    assert raw["task"]["git"] == {"startingBranch": "c0ffee"}
    spec = compiled(raw)
    assert (spec.cpus, spec.memory_bytes, spec.pids_limit) == (0.5, 64 * 1024**2, 99)
    assert (spec.shm_bytes, spec.gpus) == (2**20, None)
    assert spec.outputs == (Output("*.xml", required=True, type="junit"),)


def test_the_policy_checks_the_image_that_was_asked_for_and_not_its_digest() -> None:
    raw = payload("true", image="python:3.12-slim")
    recording = recording_of(raw, {"imageDigest": DIGEST}, None)
    pinned = parse(recording.pinned())
    policy = allowing(pinned, recording, Policy(allowed_images=["python:3.12-slim"]))
    spec = compiled(recording.pinned(), policy=policy)
    assert spec.image == f"python:3.12-slim@{DIGEST}"
    assert image_is_allowed(spec.image, policy)
    assert not image_is_allowed("python:3.11", policy)
    with pytest.raises(PolicyRefused, match="gcc"):
        allowing(pinned, recording, Policy(allowed_images=["gcc:*"]))


@pytest.mark.docker
def test_a_payload_runs_without_a_server_and_leaves_nothing(
    here: Here, written: Any, folder: Path
) -> None:
    raw = shell("echo here; echo file > $ARTIFACT_DIR/file; exit 3")
    result = here("replay", written(raw), "--folder", str(folder))
    assert result.status == ExitStatus.FAILED
    assert result.out == "here\n"
    assert result.err == "failed: exited 3: see the end of runner.log\n"
    assert kept_containers(folder) == []
    assert [path.name for path in folder.iterdir()] == [".runs"]
    assert list((folder / ".runs").iterdir()) == []


@pytest.mark.docker
def test_a_replay_ends_by_its_outputs_and_test_reports_as_a_run_is(
    here: Here, written: Any, folder: Path
) -> None:
    outputs = [{"path": "build/app", "required": True}]
    result = here("replay", written(shell("true", outputs=outputs)), "--folder", str(folder))
    assert result.status == ExitStatus.FAILED
    assert "left no file for the required output build/app" in result.err
    report = "<testsuite><testcase name='test_bar'><failure/></testcase></testsuite>"
    script = f'mkdir $ARTIFACT_DIR/test-results; echo "{report}" > $ARTIFACT_DIR/test-results/a.xml'
    result = here("replay", written(shell(f"{script}; exit 1")), "--folder", str(folder))
    assert "failed: 1 of 1 test failed: test_bar" in result.err


@pytest.mark.docker
def test_a_container_writes_to_a_pipe_as_it_is_and_to_a_terminal_harmlessly(
    written: Any, folder: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    name = written(
        shell("printf '\\033]0;owned\\007titled\\n\\303'; sleep .2; printf '\\251t\\351'")
    )
    words = ["replay", name, "--folder", str(folder)]
    with server_at(None):
        assert run(words) == 0
    assert capfdbinary.readouterr().out == b"\x1b]0;owned\x07titled\n\xc3\xa9t\xe9"
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen([COMMAND, *words], env=environment(), stdout=theirs)
        os.close(theirs)
        shown = b""
        # What a terminal says when nobody writes to it any more is an error.
        with suppress(OSError):
            while data := terminal.read(65536):
                shown += data
        assert process.wait(300) == 0
    assert b"owned" not in shown
    assert shown.decode().splitlines() == ["titled", "\u00e9t\ufffd"]


@pytest.mark.docker
def test_keep_leaves_the_container_and_its_folder_until_they_are_cleaned(
    here: Here, written: Any, folder: Path
) -> None:
    raw = shell("echo inside > /tmp/inside; echo result > $ARTIFACT_DIR/result; exit 1")
    result = here("replay", written(raw), "--keep", "--json", "--folder", str(folder))
    told = result.json
    assert (result.status, told["outcome"], told["exitCode"]) == (1, "failed", 1)
    try:
        results = Path(told["folder"]) / "artifacts/container/result"
        assert results.read_text() == "result\n"
        shown = subprocess.run(
            ["sh", "-c", told["look"]["shell"].replace(" -it ", " -i ")],
            input="cat /tmp/inside $ARTIFACT_DIR/result",
            capture_output=True,
            text=True,
            check=True,
        )
        assert "inside\nresult\n" in shown.stdout
    finally:
        cleaned = here("replay", "--clean", "--folder", str(folder))
    assert f"Removed the container {told['container']}." in cleaned.out
    assert not Path(told["folder"]).exists()
    assert kept_containers(folder) == []
    again = here("replay", "--clean", "--folder", str(folder))
    assert (again.status, again.out) == (0, f"Nothing was kept in {folder}.\n")


@pytest.mark.docker
@pytest.mark.server
def test_a_run_is_replayed_at_its_commit_and_from_its_run_json_and_no_sweep_takes_what_is_kept(
    stack: Stack,
    weather: Weather,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    folder: Path,
) -> None:
    (tmp_path / "served/lib").mkdir(parents=True)
    (tmp_path / "served/lib/file").write_text("old\n")
    commit_all(tmp_path / "served/lib", "first")
    with git_daemon(tmp_path / "served") as address:
        raw = shell("cat file; echo $WORD; exit 2", env={"WORD": "told"})
        run = weather.end(weather.submit(raw | {"repository": f"{address}/lib"}))
        (tmp_path / "served/lib/file").write_text("new\n")
        commit_all(tmp_path / "served/lib", "second")
        file = weather.folder(run["id"]) / "artifacts/container/metadata/run.json"
        with server_at(f"{stack.address}/api", stack.address):
            by_id = Here(capsys)("replay", run["id"], "--keep", "--folder", str(folder))
            by_file = Here(capsys)("replay", str(file), "--folder", str(folder))
        with server_at(None):
            alone = Here(capsys)("replay", str(file), "--folder", str(folder))
    assert (by_id.status, by_id.out) == (ExitStatus.FAILED, "old\ntold\n"), by_id.err
    assert (by_file.status, by_file.out) == (ExitStatus.FAILED, "old\ntold\n"), by_file.err
    assert (alone.status, alone.out) == (ExitStatus.FAILED, "old\n\n"), alone.err
    assert "what run.json does not tell is left out: environment" in alone.err
    assert len(kept_containers(folder)) == 1
    weather.sweep()
    assert len(kept_containers(folder)) == 1
    with server_at(None):
        Here(capsys)("replay", "--clean", "--folder", str(folder))
    assert kept_containers(folder) == []


@pytest.mark.docker
def test_a_payload_chooses_no_variable_of_this_environment(
    here: Here, written: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"AWS_SECRET_ACCESS_KEY": "task-aws", "SSH_KEY": "task-key"}
    raw = shell("echo $AWS_SECRET_ACCESS_KEY | rev", secrets=names)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-developers-own")
    result = here("replay", written(raw), "--folder", str(folder))
    assert (result.status, result.out) == (ExitStatus.BAD_INPUT, "")
    assert result.err.splitlines() == [
        f"task.container.secrets.{name}: the value of the Secret block {block!r} cannot be read "
        f"here: give one by --secret {name}, from this environment's variable {name}, or by "
        f"--secret-file {name}=FILE, or set PREFECT_API_URL to the server that has the block"
        for name, block in names.items()
    ]


@pytest.mark.docker
def test_a_secret_that_is_given_by_an_option_reaches_the_container_and_is_masked(
    here: Here, written: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"TOKEN": "task-token", "KEY": "task-key"}
    raw = shell('echo $TOKEN | rev; echo "$TOKEN,$KEY"; echo "$KEY" | wc -l', secrets=names)
    monkeypatch.setenv("TOKEN", "hunter22")
    key = tmp_path / "key"
    key.write_text("first-line\nsecond-line\n")
    given = ("--secret", "TOKEN", "--secret-file", f"KEY={key}")
    result = here("replay", written(raw), "--folder", str(folder), *given)
    assert (result.status, result.out) == (0, "22retnuh\n***,***\n2\n")


def test_a_secret_from_a_file_that_is_too_long_for_a_process_is_not_called_no_text(
    tmp_path: Path,
) -> None:
    (tmp_path / "long").write_text("x" * 200_000)
    with pytest.raises(CommandError, match="long has more than 131071 bytes with its name"):
        given_values((), [f"TOKEN={tmp_path}/long"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--secret", "UNSET"), "--secret UNSET: there is no variable UNSET in this environment"),
        (("--secret", "TOKEN=hunter22"), "--secret takes the name of a variable"),
        (("--secret", "OTHER"), "--secret OTHER: the task has no secret of that name, but TOKEN"),
        (("--secret-file", "TOKEN"), "--secret-file takes NAME=FILE"),
        (("--secret-file", "TOKEN=/none"), "--secret-file TOKEN: cannot read /none"),
        (("--secret-file", "TOKEN=/bin/sh"), "--secret-file TOKEN: /bin/sh is no text"),
        (("--secret", "TOKEN", "--secret", "TOKEN"), "TOKEN is given twice"),
    ],
)
def test_a_secret_that_cannot_be_had_by_an_option_is_told_in_a_sentence(
    here: Here,
    written: Any,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.setenv("TOKEN", "hunter22")
    monkeypatch.setenv("OTHER", "hunter22")
    monkeypatch.delenv("UNSET", raising=False)
    raw = written(shell("true", secrets={"TOKEN": "task-token"}))
    result = here("replay", raw, "--folder", str(folder), *words)
    assert result.status == ExitStatus.BAD_INPUT
    assert says in result.err
    assert "hunter22" not in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.docker
def test_an_interrupt_stops_the_container_and_leaves_nothing(
    here: Here, written: Any, folder: Path
) -> None:
    name = written(shell("echo begun; sleep 60", stopGraceSeconds=1))
    result = here.interrupted("replay", name, "--folder", str(folder), at="begun\n")
    assert result.status == ExitStatus.CANCELED, result.err
    assert "Traceback" not in result.err
    assert kept_containers(folder) == []
    assert [path.name for path in folder.iterdir()] == [".runs"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "name a run, a run.json or a payload to replay, or give --clean"),
        (("x", "--clean"), "name no run with it"),
        (("none/run.json",), "there is no file none/run.json"),
    ],
)
def test_a_replay_of_nothing_is_told_in_a_sentence(
    here: Here, words: tuple[str, ...], says: str
) -> None:
    result = here("replay", *words)
    assert result.status == ExitStatus.BAD_INPUT
    assert says in result.err
    assert len(result.err.splitlines()) == 1


def test_a_replay_without_an_engine_is_told_in_a_sentence(
    here: Here, written: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    result = here("replay", written(shell("true")), "--folder", str(folder))
    assert result.status == ExitStatus.INFRASTRUCTURE
    assert "unix:///nowhere/docker.sock does not answer" in result.err
    assert "Traceback" not in result.err
    cleaned = here("replay", "--clean", "--folder", str(folder))
    assert (cleaned.status, cleaned.out) == (0, f"Nothing was kept in {folder}.\n")
