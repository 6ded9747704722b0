"""No payload and no output of a task takes the worker so long that the others' runs stand still.

Measured in CPU time of the thread: how long a call takes bounds how long it can hold the GIL.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from flows.errors import PayloadError
from flows.masking import Masker
from flows.outcome import outcome_of
from flows.payload.parse import misplaced, parse, require_runnable, secrets_of
from flows.report.names import run_name, state_message
from flows.report.page import rejection_markdown
from flows.spec import command_summary
from flows.text import code, escape, fence, last_line, one_line, shown_lines, visible
from tests.cpu import is_slow
from tests.specs import compiled
from tests.test_fuzz import RICH, places

LONGEST_SECONDS = 0.2
# What a payload can hold, but for the rest of it.
SIZE = 480_000
# For every pattern that looks at a payload's texts: what has it try many ways.
UNITS = (
    "a", "a!", "a.", "a-", "-", "a_", "a/", "../", "a@", "a:", "9", "*a", "**/", "[", "[a-", " ",
    "\t", "\n", "abcdefgh\n", "%0Aabcdefgh", "'", '"', "\\", "`", "` ", "|", "<img src=x>", "://",
    "é", "\U0001f600", "\u202e", "\x01", "\x1b[", "\x1b]", "\x1b", "\x1b ", "\x9d", "{\"a\":", "a=",
)  # fmt: skip
REPOSITORIES = (
    "https://u:{}@h/x", "https://{}@h/x", "https://h/{}", "https://{}/x", "https://{}", "git@{}:c",
    "git@h:{}", "{}@b:c", "ssh://{}@h/x", "h.example/{}",
)  # fmt: skip
# Of many values, in `task.container`.
MANY: Mapping[str, Callable[[], Any]] = {
    "env": lambda: {f"A{i}": "" for i in range(9_900)},
    "env ": lambda: {f"A {i}": 1 for i in range(9_900)},
    "secrets": lambda: {f"A{i}": "task-a" for i in range(9_900)},
    "command": lambda: ["'"] * 9_900,
    "command ": lambda: [1] * 9_900,
    "entrypoint": lambda: ["x" * 40] * 9_900,
    "cacheVolumes": lambda: [{"name": f"c{i}", "target": f"/c{i}"} for i in range(3_300)],
    "cacheVolumes ": lambda: [{"name": "cc", "target": "/c" * 2000} for _ in range(100)],
    "outputs": lambda: ["*a" * 245 + "x"] * 100,
    "outputs ": lambda: ["/".join(["**", "a"] * 19)] * 100,
    "outputs  ": lambda: [f"a{i}" for i in range(9_900)],
    "retry": lambda: {"exitCodes": {str(i): 1 for i in range(9_900)}},
    "unknown": lambda: json.loads('{"a":' * 900 + "1" + "}" * 900),
}


def filled(unit: str) -> str:
    size = len(json.dumps(unit * 10)) // 10
    return unit * (SIZE // size)


def with_value(path: tuple[Any, ...], value: Any) -> Any:
    payload = copy.deepcopy(RICH)
    owner = payload
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    return payload


def crowded() -> Iterator[Any]:
    """Payloads of many values, or of keys that are nearly known."""
    for key, make in MANY.items():
        yield with_value(("task", "container", key.strip()), make())
    for path, name in ((("task",), "contain{}r"), ((), "containe{}"), (("task", "git"), "depth{}")):
        payload = copy.deepcopy(RICH)
        payload["task"]["container"]["enabled"] = False
        owner = payload
        for key in path:
            owner = owner[key]
        owner.update({name.format(i): 1 for i in range(9_900)})
        yield payload
    near = {f"timeoutSecond{i}": 1 for i in range(9_900)}
    yield with_value(("task", "container"), RICH["task"]["container"] | near)
    yield with_value(("requiredCapabilities",), [f"c{i}" for i in range(9_900)])


def steps(raw: Any) -> Iterator[Callable[[], object]]:
    """All that a worker does with a payload before its container runs, one call after another."""
    yield partial(run_name, raw)
    try:
        payload = parse(raw)
        yield partial(parse, raw)
        yield partial(misplaced, payload)
        require_runnable(payload)
        spec = compiled(payload)
    except PayloadError as error:
        yield partial(_refused, raw)
        outcome = outcome_of(error)
        yield partial(state_message, outcome)
        yield partial(rejection_markdown, outcome, error.faults)
        return
    masker = Masker(secrets_of(payload))
    yield partial(Masker, secrets_of(payload))
    yield partial(compiled, payload)
    yield partial(masker.words, spec.command)
    yield partial(run_name, payload, masker)
    yield partial(command_summary, spec.command)
    yield partial(masker.text, payload.task.instructions or "")
    yield payload.canonical


def _refused(raw: Any) -> None:
    with pytest.raises(PayloadError):
        require_runnable(parse(raw))


def slow_steps(payload: Any) -> list[Callable[[], object]]:
    return [step for step in steps(payload) if is_slow(step, LONGEST_SECONDS)]


def test_no_crowd_of_values_makes_the_worker_stand_still() -> None:
    for payload in crowded():
        assert slow_steps(payload) == []


@pytest.mark.parametrize("unit", ["a", "%0Aabcdefgh", "a@", "/"])
def test_no_repository_makes_the_worker_stand_still(unit: str) -> None:
    for form in REPOSITORIES:
        for size in (SIZE, 10_000):
            text = form.format(filled(unit)[:size])
            assert slow_steps(with_value(("repository",), text)) == [], form


@pytest.mark.thorough
@pytest.mark.parametrize("unit", UNITS, ids=ascii)
def test_no_long_text_anywhere_in_a_payload_makes_the_worker_stand_still(unit: str) -> None:
    text = filled(unit)
    for path in filter(None, places(RICH)):
        assert slow_steps(with_value(path, text)) == [], path
        assert slow_steps(with_value(path, [text])) == [], path


@pytest.mark.parametrize("end", ["", "\x1b", "\n"])
@pytest.mark.parametrize("unit", UNITS, ids=ascii)
def test_no_output_takes_long_to_be_shown(unit: str, end: str) -> None:
    text = (unit * 64 * 1024)[: 64 * 1024] + end
    for show in (code, escape, fence, shown_lines, visible):
        assert not is_slow(partial(show, text), LONGEST_SECONDS), show
    for cut in (last_line, one_line):
        assert not is_slow(partial(cut, text, 200), LONGEST_SECONDS), cut
