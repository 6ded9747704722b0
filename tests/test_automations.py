"""The automations of examples/ on a real server: who is told what, and how often."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from scripts.stack import KIND, ROOT, Stack
from tests.runs import EAT_MEMORY, shell, until
from tests.weather import Weather

# All on the stack: what is deployed here would cancel what other files let wait.
pytestmark = [pytest.mark.docker, pytest.mark.server, pytest.mark.thorough]

FOLDER = ROOT / "examples" / "automations"
NAMES = {
    "container-task-failed",
    "container-task-timed-out",
    "container-task-out-of-memory",
    "container-task-crashed",
    "container-task-late",
    "container-task-summary",
}


class Receiver:
    """A webhook on loopback, and what was sent to it."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        messages = self.messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def of(self, run_id: str) -> list[dict[str, str]]:
        return [each for each in self.messages if f"/runs/flow-run/{run_id}" in each["body"]]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass
class Alerts:
    """Automations on the stack, and what they send."""

    stack: Stack
    folder: Path
    receiver: Receiver

    def command(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "container-task"), *words]
        return subprocess.run(
            command,
            env=self.stack.environment | {"PYTHONPATH": str(ROOT)},
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )

    def present(self) -> dict[str, Any]:
        """The automations of the server by name; fails for two of one name."""
        found = self.stack.api("POST", "/automations/filter", limit=200).json()
        assert len({each["name"] for each in found}) == len(found)
        return {each["name"]: each for each in found}


@pytest.fixture(scope="module")
def alerts(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alerts]:
    receiver = Receiver()
    folder = tmp_path_factory.mktemp("automations")
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    for name, seconds in (("late", 3600), ("crashed", 300)):
        text = (folder / f"{name}.yaml").read_text()
        assert f"within: {seconds}\n" in text
        (folder / f"{name}.yaml").write_text(text.replace(f"within: {seconds}\n", "within: 10\n"))
    alerts = Alerts(stack, folder, receiver)
    yield alerts
    for each in alerts.present().values():
        stack.api("DELETE", f"/automations/{each['id']}").raise_for_status()
    receiver.close()


def make_block(stack: Stack, address: str) -> None:
    script = f"""
from prefect.blocks.notifications import CustomWebhookNotificationBlock
CustomWebhookNotificationBlock(
    name="alerts",
    url={address!r},
    json_data={{"subject": "{{{{subject}}}}", "body": "{{{{body}}}}"}},
).save("container-task-alerts", overwrite=True)
"""
    subprocess.run(
        [sys.executable, "-c", script], env=stack.environment, check=True, capture_output=True
    )


@pytest.fixture(scope="module")
def deployed(alerts: Alerts) -> Alerts:
    """By the documented command, at first without the block that it needs."""
    refused = alerts.command("deploy-automations", str(alerts.folder))
    assert refused.returncode == 2
    assert "no block that sends notifications is named container-task-alerts" in refused.stderr
    assert alerts.present() == {}
    make_block(alerts.stack, alerts.receiver.address)
    done = alerts.command("deploy-automations", str(alerts.folder))
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {f"created {name}" for name in NAMES}
    return alerts


@pytest.fixture(scope="module")
def told(deployed: Alerts, weather: Weather) -> dict[str, str]:
    """One run of each kind, all of them over, and told of."""
    stack = deployed.stack
    stack.create_pool("nobody", KIND)
    stack.deploy_to("nobody")
    nobody = Weather(stack, "nobody")
    runs = {
        "late": nobody.submit(shell("true")),
        "crashed": nobody.submit(shell("true", retry={"infrastructure": 0})),
        "failed": weather.submit(shell("echo '<!channel> @here'; exit 3")),
        "timed-out": weather.submit(shell("sleep 60", timeoutSeconds=1, stopGraceSeconds=0)),
        "out-of-memory": weather.submit(_eater()),
        "rejected": weather.submit(shell("true", timeoutSecond=1)),
        "image-error": weather.submit(shell("true", image="moonmind-local/none:1", pull="never")),
        "succeeded": weather.submit(shell("true")),
    }
    crashed = {"type": "CRASHED", "message": "Its process died."}
    stack.api("POST", f"/flow_runs/{runs['crashed']}/set_state", state=crashed).raise_for_status()
    for name in set(runs) - {"late", "crashed"}:
        weather.end(runs[name])
    for name in set(runs) - {"succeeded"}:
        until(lambda: deployed.receiver.of(runs[name]), what=f"word of {name}")  # noqa: B023
    runs["summary"] = stack.submit_to("failure-summary/docker")
    assert stack.await_final(runs["summary"])["state_type"] == "COMPLETED"
    # The last of all: what was to be sent before has been sent.
    until(lambda: deployed.receiver.of(runs["summary"]), what="the summary's word")
    return runs


def _eater() -> Any:
    return shell(f"{EAT_MEMORY}; exit 137", resources={"memory": "32m"})


def test_a_second_deployment_changes_what_the_file_changes_and_makes_nothing_twice(
    deployed: Alerts,
) -> None:
    before = deployed.present()
    assert set(before) == NAMES
    again = deployed.command("deploy-automations", str(deployed.folder))
    assert set(again.stdout.splitlines()) == {f"unchanged {name}" for name in NAMES}
    failed = before["container-task-failed"]["id"]
    deployed.stack.api("PATCH", f"/automations/{failed}", enabled=False).raise_for_status()
    text = (deployed.folder / "failed.yaml").read_text()
    changed = text.replace("Tell of a container task", "Cry over a container task")
    done = deployed.command("deploy-automations", "-", given=changed)
    assert done.stdout == "updated container-task-failed\n", done.stderr
    now = deployed.present()["container-task-failed"]
    assert now["id"] == failed
    assert now["description"].startswith("Cry over")
    assert now["enabled"] is False, "who paused it wanted it so"
    deployed.stack.api("PATCH", f"/automations/{failed}", enabled=True).raise_for_status()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("{{ flow_run.name }}", "{{ flow_run.name }", "'body' is not a valid template"),
        (": container-task-alerts", ": slack-webhook/mine", "is named slack-webhook/mine"),
    ],
)
def test_what_the_server_does_not_take_is_told_in_a_sentence(
    deployed: Alerts, old: str, new: str, sentence: str
) -> None:
    text = (deployed.folder / "failed.yaml").read_text()
    done = deployed.command("deploy-automations", "-", given=text.replace(old, new))
    assert done.returncode == 2
    assert done.stderr.startswith("standard input: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_of_two_blocks_of_one_name_the_file_has_to_say_which(deployed: Alerts) -> None:
    page = (ROOT / "docs" / "automations.md").read_text()
    (script,) = re.findall(r'^\$ python -c "(.*SlackWebhook.*)"$', page, re.MULTILINE)
    made = subprocess.run(
        [sys.executable, "-c", script],
        env=deployed.stack.environment,
        input="https://hooks.slack.com/services/T0/B0/x\n",
        text=True,
        capture_output=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    path = "/block_types/slug/slack-webhook/block_documents/name/container-task-alerts"
    block = deployed.stack.api("GET", path).json()["id"]
    try:
        done = deployed.command("deploy-automations", str(deployed.folder / "failed.yaml"))
        assert done.returncode == 2
        assert (
            "several blocks are named container-task-alerts: write one of "
            "custom-webhook/container-task-alerts, slack-webhook/container-task-alerts"
        ) in done.stderr
        text = (deployed.folder / "failed.yaml").read_text()
        named = text.replace("container-task-alerts", "custom-webhook/container-task-alerts")
        done = deployed.command("deploy-automations", "-", given=named)
        assert done.returncode == 0, done.stderr
    finally:
        deployed.stack.api("DELETE", f"/block_documents/{block}").raise_for_status()


@pytest.mark.parametrize(
    ("which", "subject", "sentence"),
    [
        ("failed", "A container task ended Failed", "exited 3"),
        ("rejected", "A container task ended Rejected", "did you mean 'timeoutSeconds'?"),
        ("image-error", "A container task ended ImageError", "moonmind-local/none:1"),
        ("timed-out", "A container task ran out of time", "longer than its limit of 1 s"),
        ("out-of-memory", "A container task ran out of memory", "at its limit of 32 MiB"),
        ("crashed", "A container task crashed", "Its process died."),
        ("late", "A container task was too late", "still waited after 10 seconds"),
    ],
)
def test_who_is_told_reads_what_happened_and_where(
    deployed: Alerts, told: dict[str, str], which: str, subject: str, sentence: str
) -> None:
    (message,) = deployed.receiver.of(told[which])
    assert message["subject"] == subject
    run = deployed.stack.flow_run(told[which])
    name, text, link = message["body"].strip().splitlines()
    plain = name.replace("\u200b", "").replace("\u2039", "<").replace("\u203a", ">")
    assert plain == run["name"]
    assert sentence in text
    assert link == f"{deployed.stack.address}/runs/flow-run/{run['id']}"


def test_each_is_told_of_once_and_a_success_not_at_all(
    deployed: Alerts, told: dict[str, str]
) -> None:
    counts = {name: len(deployed.receiver.of(run_id)) for name, run_id in told.items()}
    assert counts == dict.fromkeys(told, 1) | {"succeeded": 0}
    known = [each for run_id in told.values() for each in deployed.receiver.of(run_id)]
    others = {each["subject"] for each in deployed.receiver.messages if each not in known}
    # On Monday at six, another summary comes.
    assert others <= {"Container tasks of the week"}


def test_what_a_container_prints_calls_nobody(deployed: Alerts, told: dict[str, str]) -> None:
    (message,) = deployed.receiver.of(told["failed"])
    assert "!channel" in message["body"]
    assert "!channel>" not in message["body"]
    assert "@here" not in message["body"]


def test_a_task_that_waits_too_long_is_cancelled(deployed: Alerts, told: dict[str, str]) -> None:
    run = deployed.stack.flow_run(told["late"])
    assert run["state_type"] == "CANCELLED"
    assert run["run_count"] == 0


def test_the_summarys_word_has_its_numbers(deployed: Alerts, told: dict[str, str]) -> None:
    (message,) = deployed.receiver.of(told["summary"])
    assert message["subject"] == "Container tasks of the week"
    event = _summary_event(deployed.stack, told["summary"])
    assert event["payload"]["text"] in message["body"]
    assert event["payload"]["outcomes"] == _ended(deployed.stack)
    causes = {(each["outcome"], each["failureClass"]) for each in event["payload"]["causes"]}
    assert causes >= {
        ("failed", "exit-code"),
        ("timed-out", "timeout"),
        ("out-of-memory", "memory"),
        ("image-error", "not-found"),
        ("rejected", "rejected"),
        ("infrastructure", "infrastructure"),
        ("canceled", "canceled"),
    }
    total = sum(each["runs"] for each in event["payload"]["causes"])
    succeeded = event["payload"]["outcomes"]["succeeded"]
    assert total + succeeded == event["payload"]["runs"]


def test_the_summary_is_an_artifact_that_leads_to_the_last_run_of_each_cause(
    deployed: Alerts, told: dict[str, str]
) -> None:
    answer = deployed.stack.api("GET", "/artifacts/container-task-summary/latest").json()
    assert answer["flow_run_id"] == told["summary"]
    (row,) = [line for line in answer["data"].splitlines() if line.startswith("| `memory`")]
    assert f"(/runs/flow-run/{told['out-of-memory']})" in row
    assert "ran out of memory at its limit of 32 MiB" in row


def _summary_event(stack: Stack, run_id: str) -> Any:
    wanted = {"resource": {"id": [f"moonmind.summary.{run_id}"]}}

    def stored() -> Any:
        return stack.api("POST", "/events/filter", filter=wanted, limit=50).json()["events"]

    (event,) = until(stored, what="the summary's event")
    return event


def _ended(stack: Stack) -> dict[str, int]:
    """All container tasks that are over, counted from the runs themselves."""
    names = {
        "TimedOut": "timed-out",
        "OutOfMemory": "out-of-memory",
        "Rejected": "rejected",
        "ImageError": "image-error",
        "InfrastructureError": "infrastructure",
        "Failed": "failed",
        "Cancelled": "canceled",
        "Crashed": "infrastructure",
        "Completed": "succeeded",
    }
    found: Counter[str] = Counter()
    ours, offset = {"name": {"any_": ["container-task"]}}, 0
    while True:
        words = {"flows": ours, "limit": 200, "offset": offset, "sort": "ID_DESC"}
        page = stack.api("POST", "/flow_runs/filter", **words).json()
        found.update(names[run["state_name"]] for run in page if run["state_name"] in names)
        offset += len(page)
        if len(page) < 200:
            return dict(found)
