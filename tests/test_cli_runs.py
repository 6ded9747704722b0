"""`container-task submit`, `status`, `logs` and `open` against a real server and worker."""

import io
import json
import os
import pty
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Running

from flows.cli import prefect_api
from flows.cli.console import CommandError, Console, ExitStatus
from flows.cli.follow import watch
from flows.cli.prefect_api import connected
from scripts.stack import Stack
from tests.answering import Answering
from tests.command import COMMAND, Here, environment, read_until, server_at, started
from tests.gateway import Gateway
from tests.runs import EAT_MEMORY, payload, shell, until
from tests.weather import ENDLESS, Weather

pytestmark = [pytest.mark.docker, pytest.mark.server]


@pytest.fixture
def here(stack: Stack, capsys: pytest.CaptureFixture[str]) -> Iterator[Here]:
    with server_at(f"{stack.address}/api", stack.address):
        yield Here(capsys)


def settings(stack: Stack) -> dict[str, str]:
    return {
        key: stack.environment[key] for key in ("PREFECT_API_URL", "PREFECT_UI_URL", "PREFECT_HOME")
    }


def test_submit_watch_shows_every_line_once_and_ends_with_the_outcomes_status(
    here: Here, stack: Stack, written: Any
) -> None:
    script = "for i in $(seq 40); do echo line $i of forty; sleep 0.05; done"
    result = here("submit", written(shell(script)), "--watch")
    assert result.status == ExitStatus.SUCCEEDED, result.err
    lines = [line for line in result.out.splitlines() if line.startswith("line ")]
    assert lines == [f"line {number} of forty" for number in range(1, 41)]
    assert f"{stack.address}/runs/flow-run/" in result.err
    assert result.err.splitlines()[-1] == "succeeded: exited 0"


@pytest.mark.parametrize(
    ("raw", "status", "says"),
    [
        (shell("echo broken; exit 3"), ExitStatus.FAILED, "failed: exited 3"),
        (shell("sleep 30", timeoutSeconds=1), ExitStatus.TIMED_OUT, "timed-out: "),
        (payload("true", image="moonmind-local/none:1"), ExitStatus.IMAGE_ERROR, "image-error: "),
        (
            shell(f"{EAT_MEMORY}; exit 137", resources={"memory": "16m"}),
            ExitStatus.OUT_OF_MEMORY,
            "out-of-memory: ",
        ),
        (
            shell("true") | {"repository": "https://127.0.0.1:9/a.git"},
            ExitStatus.INFRASTRUCTURE,
            "infrastructure: ",
        ),
        (
            shell("true", workdir="/work/agent_jobs/<job_id>/repo/none"),
            ExitStatus.REJECTED,
            "rejected: ",
        ),
    ],
)  # fmt: skip
def test_each_outcome_has_its_exit_status(
    here: Here, written: Any, raw: Any, status: ExitStatus, says: str
) -> None:
    result = here("submit", written(raw), "--watch")
    assert result.status == status, result.err
    assert result.err.splitlines()[-1].startswith(says)


def test_submit_prints_the_runs_id_name_and_address(here: Here, written: Any, stack: Stack) -> None:
    result = here("submit", written(shell("echo hello")), "--tag", "nightly", "--json")
    assert (result.status, result.err) == (0, "")
    run = stack.await_final(result.json["id"])
    assert result.json["url"] == f"{stack.address}/runs/flow-run/{run['id']}"
    assert result.json["name"] == run["name"] == "moonmind-local/busybox:1.36 · sh -c 'echo hello'"
    assert set(run["tags"]) == {"container-task", "nightly"}


def test_an_idempotency_key_starts_one_run(here: Here, written: Any, tmp_path: Path) -> None:
    name = written(shell("true"))
    ids = {
        here("submit", name, "--idempotency-key", str(tmp_path), "--json").json["id"]
        for _ in range(2)
    }
    assert len(ids) == 1


def test_a_payload_comes_by_standard_input(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(shell("echo by pipe"))))
    result = here("submit", "-", "--watch", "--json")
    kinds = Counter(each["kind"] for each in result.lines_of_json)
    assert kinds["submitted"] == kinds["ended"] == 1
    told = [each["message"] for each in result.lines_of_json if each["kind"] == "log"]
    assert told.count("by pipe") == 1
    assert result.lines_of_json[-1]["outcome"] == "succeeded"


def test_a_payload_with_faults_is_not_submitted(
    written: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with server_at("http://127.0.0.1:9/api"):
        result = Here(capsys)("submit", written(shell("true", timeoutSeconds=0)))
    assert result.status == ExitStatus.BAD_INPUT
    assert result.err.startswith("task.container.timeoutSeconds: ")


def test_logs_follow_from_the_middle_to_the_end_and_lose_nothing(
    stack: Stack, weather: Weather
) -> None:
    run_id = weather.submit_and_see(shell(ENDLESS), "line 3\n")
    process = started("logs", "-f", run_id, settings=settings(stack))
    shown = read_until(process, "line 1\n")
    weather.let_end(run_id)
    shown += read_until(process, "Finished in state Completed('exited 0')")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    lines = [each for each in "".join(shown).splitlines() if each.startswith("line ")]
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]
    assert "the end\n" in shown


def test_a_server_that_restarts_is_waited_for_while_a_run_is_watched(
    stack: Stack, weather: Weather, written: Any
) -> None:
    with Gateway(stack.address) as api:
        ours = settings(stack) | {"PREFECT_API_URL": f"{api.http}/api"}
        process = started("submit", written(shell(ENDLESS)), "--watch", settings=ours)
        shown = read_until(process, "line 1\n")
        assert process.stdout is not None
        assert process.stderr is not None
        run_id = process.stderr.readline().split()[1].rstrip(",")
        with api.refusing():
            assert any("does not answer; the run goes on" in line for line in process.stderr)
        weather.let_end(run_id)
        shown += process.stdout.readlines()
        _, err = process.communicate(timeout=300)
    assert process.returncode == ExitStatus.SUCCEEDED, err
    lines = [each.strip() for each in shown if each.startswith("line ")]
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]
    assert "the end\n" in shown


def test_the_line_that_moves_on_a_terminal_leaves_standard_output_alone(
    stack: Stack, written: Any
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [COMMAND, "submit", written(shell("echo told; sleep 1")), "--watch"],
            env=environment(TERM="xterm", **settings(stack)),
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        # What a terminal says when nobody writes to it any more is an error.
        with suppress(OSError):
            while data := terminal.read(65536):
                shown += data
        out = process.communicate(timeout=300)[0].decode()
    assert process.returncode == 0
    assert out.splitlines().count("told") == 1
    assert "\x1b" not in out
    assert b"\x1b[" in shown
    assert b"succeeded: exited 0" in shown


def test_an_interrupt_leaves_the_run_and_says_how_to_end_it(
    here: Here, stack: Stack, written: Any
) -> None:
    name = written(shell("echo begun; sleep 60", stopGraceSeconds=1))
    result = here.interrupted("submit", name, "--watch", at="begun\n")
    assert result.status == ExitStatus.INTERRUPTED
    run_id = result.err.split()[1].rstrip(",")
    assert f"prefect flow-run cancel {run_id}" in result.err.splitlines()[-1]
    assert stack.flow_run(run_id)["state_type"] == "RUNNING"
    assert "Traceback" not in result.err
    state = {"type": "CANCELLING"}
    stack.api("POST", f"/flow_runs/{run_id}/set_state", state=state).raise_for_status()


def test_an_interrupt_cancels_the_run_where_that_is_asked_for_also_in_the_background(
    stack: Stack, written: Any
) -> None:
    name = written(shell("echo begun; sleep 60", stopGraceSeconds=1))
    words = ("submit", name, "--watch", "--cancel-on-interrupt")
    process = started(*words, on_interrupt=signal.SIG_IGN, settings=settings(stack))
    read_until(process, "begun\n")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == ExitStatus.CANCELED, err
    assert err.splitlines()[-1].startswith("canceled: ")


def test_a_run_that_no_worker_takes_says_so(here: Here, stack: Stack, written: Any) -> None:
    stack.create_pool("idle")
    stack.deploy_to("idle")
    words = ("--watch", "--cancel-on-interrupt", "--deployment", "container-task/idle")
    result = here.interrupted("submit", written(shell("true")), *words, at="No worker")
    assert "prefect worker start --pool idle" in result.err
    assert result.status == ExitStatus.CANCELED, result.err


@pytest.fixture(scope="module")
def failed(stack: Stack, weather: Weather) -> dict[str, Any]:
    run_id = weather.submit(shell("echo out of cheese; exit 4"))
    return weather.end(run_id)


def test_status_tells_the_outcome_and_shows_the_report(here: Here, failed: Any) -> None:
    result = here("status", failed["id"])
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[0].startswith("Outcome    failed: exited 4")
    assert f"Run        {failed['id']}" in result.out
    assert "out of cheese" in result.out


def test_status_as_json_has_the_facts_of_the_run(here: Here, failed: Any) -> None:
    facts = here("status", failed["id"], "--json").json
    assert facts["outcome"] == "failed"
    assert facts["state"]["type"] == "FAILED"
    assert facts["run"]["exitCode"] == "4"
    assert facts["run"]["image"] == "moonmind-local/busybox:1.36"


def test_a_run_is_found_by_its_name_the_beginning_of_its_id_and_its_address(
    here: Here, failed: Any, stack: Stack
) -> None:
    run_id, address = failed["id"], f"{stack.address}/runs/flow-run/{failed['id']}"
    for word in (run_id, run_id[:13], run_id.upper(), failed["name"], address, f"{address}/"):
        result = here("open", word)
        assert (result.status, result.out) == (0, f"{address}\n"), word


def test_a_name_of_several_runs_is_refused_with_their_ids(here: Here, written: Any) -> None:
    name = written(shell("echo twins"))
    ids = [here("submit", name, "--json").json["id"] for _ in range(2)]
    result = here("status", "moonmind-local/busybox:1.36 · sh -c 'echo twins'")
    assert result.status == ExitStatus.UNKNOWN
    assert "means 2 runs" in result.err
    assert all(run_id in result.err for run_id in ids)


@pytest.mark.parametrize("word", ["nope", "00000000-0000-4000-8000-000000000000", "ffffffff"])
@pytest.mark.parametrize("command", ["status", "logs", "open"])
def test_a_run_that_nobody_knows_is_told_in_a_sentence(here: Here, command: str, word: str) -> None:
    result = here(command, word)
    assert (result.status, result.out) == (ExitStatus.UNKNOWN, "")
    assert result.err.startswith(f"there is no run '{word}' on this server: ")


def test_a_deployment_that_is_missing_is_told_in_a_sentence(here: Here, written: Any) -> None:
    for name in ("container-task/none", "nonsense"):
        result = here("submit", written(shell("true")), "--deployment", name)
        assert result.status == ExitStatus.UNKNOWN
        assert "prefect deploy --all" in result.err


@pytest.mark.parametrize("command", ["status", "submit", "replay"])
@pytest.mark.parametrize(
    ("status", "text", "says"),
    [
        (401, "{}", "refuses this log-in (401): set PREFECT_API_AUTH_STRING"),
        (500, "out of order", "failed with 500: out of order"),
        (200, "<html>", "is no API of Prefect's"),
        (200, '{"a": 1}', "is no API of Prefect's"),
        (0, "", "does not answer"),
    ],
)
def test_a_server_that_is_none_or_lets_nobody_in_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str],
    written: Any,
    command: str,
    status: int,
    text: str,
    says: str,
) -> None:
    run = "00000000-0000-4000-8000-000000000000"
    words = (command, written(shell("true")) if command == "submit" else run)
    with Answering(status or 200, text) as server:
        url = server.url if status else "http://user:secret@127.0.0.1:9/api"
        with server_at(url):
            result = Here(capsys)(*words)
    assert result.status == ExitStatus.UNREACHABLE
    assert says in result.err
    assert "PREFECT_API" in result.err or "server's log" in result.err
    assert len(result.err.splitlines()) == 1
    assert "secret" not in result.err


def test_without_a_server_nothing_is_started_for_the_occasion(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with server_at(None):
        result = Here(capsys)("status", "anything")
        told = Here(capsys)("logs", "anything", "--json").json
    assert (result.status, result.out) == (ExitStatus.UNREACHABLE, "")
    assert result.err.startswith("PREFECT_API_URL is not set")
    assert told["exitStatus"] == 3


def test_waiting_runs_say_what_they_wait_for(stack: Stack, here: Here, written: Any) -> None:
    special = shell("true") | {"requiredCapabilities": ["gpu"]}
    run_id = here("submit", written(special), "--json").json["id"]
    until(lambda: "waiting for a worker" in here("status", run_id).out, what="a word in the status")
    stack.api("POST", f"/flow_runs/{run_id}/set_state", state={"type": "CANCELLED"})


def test_a_server_that_stays_away_ends_the_watching_with_the_way_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prefect_api, "PATIENCE_SECONDS", 5.0)
    run = FlowRun(flow_id=uuid4(), state=Running())
    with (
        server_at("http://127.0.0.1:9/api"),
        connected() as client,
        pytest.raises(CommandError) as raised,
    ):
        watch(client, Console(), run)
    assert raised.value.status == ExitStatus.UNREACHABLE
    assert "http://127.0.0.1:9/api does not answer" in str(raised.value)
    assert f"The run goes on. Watch it again with container-task logs -f {run.id}" in str(
        raised.value
    )
    assert capsys.readouterr().err.count("the run goes on, and this waits") == 1
