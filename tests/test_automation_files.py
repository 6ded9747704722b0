"""Automations as files: what is refused before a server hears of it, and what the files say."""

from pathlib import Path

import pytest

from flows.automations import AutomationRefused, read
from scripts.stack import ROOT

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
    with pytest.raises(AutomationRefused) as refused:
        read("mine.yaml", text)
    lines = str(refused.value).splitlines()
    assert all(line.startswith("mine.yaml: ") for line in lines)
    assert any(sentence in line for line in lines)
    assert len(lines) == 1


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_automation_sends_to_the_block_of_the_documentation(path: Path) -> None:
    (wanted,) = read(path.name, path.read_text())
    assert wanted.name == f"container-task-{path.stem}"
    assert wanted.blocks == {"container-task-alerts"}
