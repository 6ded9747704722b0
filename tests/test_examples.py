"""Every example is a payload that this runner accepts; tests/test_toolchains.py runs some."""

import json
from pathlib import Path

import pytest

from flows.payload.parse import parse, require_runnable

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.json"))


def test_there_is_an_example_for_every_toolchain_that_the_readme_names() -> None:
    assert {path.stem for path in EXAMPLES} >= {
        "hello", "python", "c", "node", "dotnet", "unity", "unreal",
    }  # fmt: skip


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_accepted_and_says_what_it_does(path: Path) -> None:
    payload = parse(json.loads(path.read_text()))
    require_runnable(payload)
    assert payload.task.instructions
    assert payload.task.container.timeout_seconds
    assert payload.task.container.resources.memory
