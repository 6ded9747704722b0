"""How a payload names its outputs, and what it is told where it cannot."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flows.errors import PayloadError
from flows.payload.parse import parse, require_runnable
from flows.results import REASONS
from tests.runs import payload
from tests.specs import compiled

PAGE = (Path(__file__).parent.parent / "docs" / "outputs.md").read_text()
PAYLOADS = [block for block in re.findall(r"```json\n(.*?)```", PAGE, re.S) if '"task"' in block]


def canonical(path: str) -> str:
    return parse(payload("true", outputs=[{"path": path}])).task.container.outputs[0].path


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("build/*.zip", "build/*.zip"),
        ("./build//a.zip", "build/a.zip"),
        ("dist/", "dist/**"),
        ("**", "**"),
        ("$ARTIFACT_DIR/x/*", "$ARTIFACT_DIR/x/*"),
        ("${ARTIFACT_DIR}/x", "$ARTIFACT_DIR/x"),
        ("$ARTIFACT_DIR", "$ARTIFACT_DIR/**"),
        ("$ARTIFACT_DIR/", "$ARTIFACT_DIR/**"),
        ("a b/ü[!x].zip", "a b/ü[!x].zip"),
    ],
)
def test_a_path_has_one_spelling(path: str, meant: str) -> None:
    assert canonical(path) == canonical(meant) == meant


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/etc/passwd", "not a relative path without '..' and '\\'"),
        ("../other/a", "not a relative path"),
        ("a/../../b", "not a relative path"),
        ("build\\a.zip", "not a relative path"),
        ("a\nb", "not a relative path"),
        ("$ARTIFACT_DIR//etc/passwd", "not a relative path"),
        ("$ARTIFACT_DIR/../x", "not a relative path"),
        ("", "names no file"),
        (".", "names no file"),
        ("$HOME/a", "only $ARTIFACT_DIR/ may begin it"),
        ("~/a", "only $ARTIFACT_DIR/ may begin it"),
        ("$ARTIFACT_DIRx/a", "only $ARTIFACT_DIR/ may begin it"),
        ("a" * 501, "more than 500 characters or 40 segments"),
        ("a/" * 41, "more than 500 characters or 40 segments"),
    ],
)
def test_a_path_that_cannot_be_an_output_is_refused_in_a_sentence(path: str, told: str) -> None:
    with pytest.raises(PayloadError) as refused:
        canonical(path)
    (fault,) = refused.value.faults
    assert fault.path == "task.container.outputs[0].path"
    assert told in fault.message
    assert fault.message.endswith(", such as build/**/*.zip")


@pytest.mark.parametrize(
    ("outputs", "path", "told"),
    [
        ("build", "", "is not an array"),
        (["build"], "[0]", "is not an object"),
        ([{}], "[0].path", "is missing"),
        ([{"path": 3}], "[0].path", "is not a string"),
        ([{"path": "a", "type": "trx"}], "[0].type", "it takes one of file and junit"),
        ([{"path": "a", "required": "maybe"}], "[0].required", "neither true"),
        ([{"path": "a", "requird": 1}], "[0].requird", "did you mean 'required'"),
        ([{"path": "a"}] * 101, "", "has 101 entries and the limit is 100"),
    ],
)
def test_outputs_that_are_none_are_refused_in_a_sentence(
    outputs: Any, path: str, told: str
) -> None:
    with pytest.raises(PayloadError) as refused:
        parse(payload("true", outputs=outputs))
    (fault,) = refused.value.faults
    assert fault.path == f"task.container.outputs{path}"
    assert told in fault.message


def test_the_spec_knows_the_outputs_and_its_fingerprint_tells_them_apart() -> None:
    outputs = [{"path": "a", "required": "yes"}, {"path": "b", "type": "junit"}]
    spec = compiled(payload("true", outputs=outputs))
    assert spec.as_json()["outputs"] == [
        {"path": "a", "required": True, "type": "file"},
        {"path": "b", "required": False, "type": "junit"},
    ]
    label = "moonmind.spec_sha256"
    assert spec.labels[label] != compiled(payload("true")).labels[label]


@pytest.mark.parametrize("block", PAYLOADS)
def test_a_payload_of_the_page_is_accepted(block: str) -> None:
    given = parse(json.loads(block))
    require_runnable(given)
    assert given.task.container.outputs


def test_the_page_has_its_payloads_and_every_reason() -> None:
    assert len(PAYLOADS) == 2
    assert [reason for reason in REASONS if f"`{reason}`" not in PAGE] == []
