"""Automations as files: what is refused before a server hears of it, and what the files say."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from apprise.plugins.slack import NotifySlack
from prefect.server.events.jinja_filters import all_filters
from prefect.server.schemas.core import FlowRun
from prefect.server.schemas.states import Failed, State
from prefect.server.utilities.user_templates import (
    register_user_template_filters,
    render_user_template_sync,
)

from flows.cli.automations import parse_automations
from flows.cli.console import CommandError, ExitStatus
from scripts.stack import ROOT
from tests.answering import Answering
from tests.command import Here, Result, server_at

FOLDER = ROOT / "examples" / "automations"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no automation"),
        ("a: [", "is not YAML"),
        ("- 1", "is no automation, which has a name, a trigger and actions"),
        ("trigger: {}\nactions: []", "name: Field required"),
        (
            "{name: x, trigger: {posture: Proactive, wihtin: 60}, actions: []}",
            "trigger.wihtin: is not a key of Prefect's that exists here",
        ),
        (
            "{name: x, trigger: {posture: Proactive, within: 5}, actions: []}",
            "must be greater than or equal to 10 seconds",
        ),
        (
            "{name: x, trigger: {}, actions: [{type: cancel-run}]}",
            "actions.0.type: takes 'call-webhook', 'cancel-flow-run', ",
        ),
        (
            "{name: x, trigger: {}, actions: [{type: send-notification, block_document: b}]}",
            "actions.0.body: Field required",
        ),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(CommandError) as refused:
        parse_automations("mine.yaml", text)
    lines = str(refused.value).splitlines()
    assert all(line.startswith("mine.yaml: ") for line in lines)
    assert any(sentence in line for line in lines)
    assert len(lines) == 1


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_automation_sends_to_the_block_of_the_documentation(path: Path) -> None:
    (wanted,) = parse_automations(path.name, path.read_text())
    assert wanted.name == f"container-task-{path.stem}"
    assert wanted.blocks == {"container-task-alerts"}


PLAIN = "name: x\ntrigger: {}\nactions: []\n"
NOTIFIES = (
    "name: x\ntrigger: {}\nactions:\n"
    "- {type: send-notification, block_document: b, subject: s, body: t}\n"
)


@pytest.fixture
def deployed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """The command, with what it reads, and what the server answers to everything."""

    def deploy(text: str, answer: str) -> Result:
        (tmp_path / "mine.yaml").write_text(text)
        with Answering(200, answer) as server, server_at(server.url):
            return Here(capsys)("deploy-automations", str(tmp_path / "mine.yaml"))

    return deploy


def test_two_automations_of_one_name_are_refused_before_anything_is_sent(
    deployed: Callable[..., Result],
) -> None:
    result = deployed(f"{PLAIN}---\n{PLAIN}", "<html>")
    assert result.status == ExitStatus.BAD_INPUT
    assert "mine.yaml: a second automation named 'x'" in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("text", [PLAIN, NOTIFIES], ids=["plain", "with a block"])
@pytest.mark.parametrize("answer", ["<html>", '{"a": 1}', "[1]"])
def test_what_is_no_server_of_prefects_is_told_in_a_sentence(
    deployed: Callable[..., Result], text: str, answer: str
) -> None:
    result = deployed(text, answer)
    assert result.status == ExitStatus.UNREACHABLE
    assert "is no API of Prefect's" in result.err
    assert len(result.err.splitlines()) == 1


CALLS = (
    "<!channel> <!here|x> !channel> !here|x> &lt;!everyone&gt; <!subteam^S1> <@U0> @U0> @channel "
    "@everyone @here <http://evil.test|text> http://evil.test|text> http://evil.test "
    "[a](http://evil.test) ![b](//evil.test) [c](www.evil.test) www.evil.test mailto:a@evil.test "
    "<img src=https://evil.test> <a href='//evil.test'>x</a>"
)
ACTS = re.compile(r"<[!@#a-z/]|[<!@][^ ]*>|@\w|\w://|\]\(|www\.", re.IGNORECASE)


def sent(path: Path, text: str) -> tuple[str, str]:
    """Subject and body of a notification, as Prefect's server renders them, without the address of
    the run, which is the server's own."""
    (wanted,) = parse_automations(path.name, path.read_text())
    (action,) = [each for each in wanted.fields["actions"] if "body" in each]
    register_user_template_filters(all_filters)
    state: State = Failed(message=text, name="Failed")
    context: dict[str, Any] = {
        "flow_run": FlowRun(flow_id=uuid4(), name=text, state=state, state_name="Failed"),
        "event": {"payload": {"text": text}},
        "automation": {"trigger": {"within": timedelta(seconds=10)}},
    }
    subject, body = (render_user_template_sync(action[key], context) for key in ("subject", "body"))
    return subject, body.rpartition("\n")[0]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_notification_calls_nobody_and_leads_nowhere_whatever_a_container_printed(
    path: Path,
) -> None:
    subject, body = sent(path, CALLS)
    assert "evil" in body
    assert not ACTS.search(f"{subject} {body}"), ACTS.findall(body)
    # It still reads as it was written.
    plain = body.replace("\u200b", "").replace("\u2039", "<").replace("\u203a", ">")
    assert CALLS in plain


def test_slack_is_sent_neither_a_call_nor_a_link() -> None:
    """By the library that Prefect's block sends with, which makes calls of what looks like one."""
    _, body = sent(FOLDER / "failed.yaml", CALLS)
    with Answering(200, "ok") as server:

        class Here(NotifySlack):  # type: ignore[no-untyped-call]
            webhook_url = server.url
            request_rate_per_sec = 0

        slack = Here(token_a="T0", token_b="B0", token_c="x")  # type: ignore[no-untyped-call]
        assert slack.notify(body=body, title="A container task ended Failed")
        (request,) = server.bodies
    text = json.loads(request)["attachments"][0]["text"]
    assert "evil" in text
    assert not re.search(r"<|&lt;|://|@\w", text)
