"""A real Prefect server, a worker of each kind, and the deployment, as users drive them."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from scripts.session import follow
from scripts.stack import DEPLOYMENT, ROOT, Stack, StackError, flow_run_id
from tests.runs import BUSYBOX, WAITS, left_on_engine, shell, until, waiting
from tests.weather import Weather

pytestmark = [pytest.mark.docker, pytest.mark.server]


@pytest.fixture(params=["weather", "processes"], ids=["container-task", "process"])
def pool(request: pytest.FixtureRequest, stack: Stack) -> Weather:
    """A pool of each type that the deployment works on."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def hello() -> str:
    """examples/hello.json, on the stand-in of its image."""
    payload = json.loads((ROOT / "examples" / "hello.json").read_text())
    payload["task"]["container"]["image"] = BUSYBOX
    return json.dumps(payload)


def logs(stack: Stack, run_id: str) -> str:
    return "\n".join(record["message"] for record in stack.logs(run_id))


def test_the_command_of_the_readme_submits_watches_and_completes(stack: Stack) -> None:
    told = stack.prefect(
        "deployment", "run", DEPLOYMENT, "--param", f"payload={hello()}",
        "--watch", "--watch-interval", "1",
    )  # fmt: skip
    run_id = flow_run_id(told)
    flow_run = stack.flow_run(run_id)
    assert flow_run["state_type"] == "COMPLETED"
    assert flow_run["name"].startswith(BUSYBOX)
    facts = json.loads((stack.jobs / run_id / "artifacts/container/metadata/run.json").read_text())
    assert (facts["outcome"], facts["jobId"]) == ("succeeded", run_id)
    assert left_on_engine(run_id) == []


def test_a_failing_task_ends_failed_with_its_last_line_and_no_traceback(pool: Weather) -> None:
    run_id = pool.submit(shell("echo the reason >&2; exit 7"))
    flow_run = pool.end(run_id)
    assert (flow_run["state_type"], flow_run["state_name"]) == ("FAILED", "Failed")
    message = flow_run["state"]["message"]
    assert message == "exited 7: see the end of runner.log. Its last line: the reason"
    pool.assert_told_once(run_id)
    told = logs(pool.stack, run_id)
    assert "the reason" in told
    assert "Traceback" not in told


def test_a_cancelled_run_stops_its_container_and_delivers_what_there_is(pool: Weather) -> None:
    task = shell(
        "trap 'echo got it; exit 9' TERM; echo line 1; while true; do sleep 0.1; done",
        stopGraceSeconds=20,
    )
    run_id = pool.submit_and_see(task, "line 1\n")
    pool.cancel(run_id)
    assert pool.end(run_id)["state_type"] == "CANCELLED"
    pool.assert_told_once(run_id)
    facts = pool.run_json(run_id)
    assert (facts["outcome"], facts["exitCode"]) == ("canceled", 9)
    assert facts["stoppedBy"] == "cancel"
    assert pool.output(run_id) == "line 1\ngot it\n"


def test_a_payload_that_the_api_accepts_and_the_contract_does_not_is_rejected(
    pool: Weather,
) -> None:
    run_id = pool.submit({"task": {"container": {"enabled": True, "comand": ["true"]}}})
    flow_run = pool.end(run_id)
    assert flow_run["state_name"] == "Rejected"
    assert "did you mean 'command'?" in flow_run["state"]["message"]
    assert not pool.folder(run_id).exists()


def test_a_payload_of_five_megabytes_is_refused_at_the_door(stack: Stack) -> None:
    payload = shell("true") | {"notes": "x" * 5_000_000}
    answer = stack.api("GET", f"/deployments/name/{DEPLOYMENT}")
    deployment_id = answer.json()["id"]
    answer = stack.api(
        "POST", f"/deployments/{deployment_id}/create_flow_run", parameters={"payload": payload}
    )
    assert answer.status_code == 422
    assert "must be less than" in answer.text


def test_the_output_of_a_flood_is_whole_on_disk_and_bounded_in_the_ui(weather: Weather) -> None:
    lines = 1_000_000
    script = f"seq 1 {lines} | awk '{{printf \"%d %092d\\n\", $1, 0}}'; echo the very end"
    run_id = weather.submit(shell(script))
    assert weather.end(run_id)["state_type"] == "COMPLETED"
    facts = weather.run_json(run_id)
    log = weather.folder(run_id) / "artifacts/container/logs/runner.log"
    size = log.stat().st_size
    assert size == facts["logs"]["bytes"] > 95_000_000
    assert facts["logs"]["complete"] is True
    records = weather.stack.logs(run_id)
    told = "\n".join(record["message"] for record in records)
    assert "the very end" in told
    assert len(records) < 150
    assert len(told) < 3_000_000
    assert size - facts["logs"]["droppedFromUi"] < 3_000_000


def test_whoever_follows_a_run_is_told_of_its_workers_death(processes: Weather) -> None:
    stack = processes.stack
    pids = {"worker": stack.process("processes").pid, "server": stack.process("server").pid}
    run_id = processes.submit(waiting("seq 1 10000; echo went on"))
    until(lambda: WAITS in logs(stack, run_id))
    processes.kill_worker()
    with pytest.raises(StackError, match=r"worker ended before the run did; see .*\.log"):
        follow(stack, pids, run_id)
    (processes.folder(run_id) / "artifacts/container/go").touch()
    assert processes.end(run_id)["state_type"] == "COMPLETED"
    stack.start_worker("processes", "process")
    assert "went on" in logs(stack, run_id)
    assert left_on_engine(run_id) == []


def test_a_strangers_server_on_the_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"home": "/home/stranger/.prefect"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with (
            # It ends at once, as a server does whose port is taken.
            Stack(tmp_path, server.server_port, python=Path("/bin/false")) as stack,
            pytest.raises(StackError, match="the server did not start"),
        ):
            stack.start_server()
        server.shutdown()
