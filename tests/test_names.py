"""What a flow run is called."""

from typing import Any

import pytest
from hypothesis import given

from flows.masking import Masker
from flows.report.names import run_name
from flows.text import visible
from tests.strategies import FULL, bounded, enabled, mutated_payloads, nonsense


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (FULL, "team/game · dotnet/sdk:8.0 · bash -lc 'dotnet test ./Game.sln --logger junit'"),
        (enabled(), "busybox · true"),
        (enabled(command=["sh", "-c", "a\nb"]), "busybox · sh -c 'a b'"),
        (enabled(image="ghcr.io/o/n:v1@sha256:" + "a" * 64), "o/n:v1 · true"),
        (enabled() | {"repository": "team/game"}, "team/game · busybox · true"),
        (enabled() | {"repository": "git@host:team/game.git"}, "team/game · busybox · true"),
        (enabled() | {"repository": "https://u:hunter2@host/x/y/z.git/"}, "y/z · busybox · true"),
        (enabled(secrets={"A": "task-a"}), "busybox"),
        (enabled() | {"auth": {"repoAuthRef": "task-a"}}, "busybox"),
        ({"task": {"instructions": "x"}}, "no container task"),
        (enabled(image="UPPER"), "refused payload: task.container.image"),
        (None, "refused payload: payload"),
        (
            enabled(command=["a\u202eb", "\u200bc\x1b[2J\u3164"]),
            "busybox · 'a\\u202eb' '\\u200bc\\x1b[2J\\u3164'",
        ),
        (enabled(**{"\u202ekey": 1}), 'refused payload: task.container["\\u202ekey"]'),
        (
            enabled() | {"repository": "https://h/t/g\u202e\u2066e"},
            "t/g\\u202e\\u2066e · busybox · true",
        ),
    ],
)
def test_a_run_is_named_after_repository_image_and_command(raw: Any, name: str) -> None:
    assert run_name(raw) == name


def test_a_run_with_secrets_has_its_command_in_its_name_once_they_are_known() -> None:
    raw = enabled(secrets={"A": "task-a"}, command=["login", "hunter22"])
    assert run_name(raw, Masker(["hunter22"])) == "busybox · login '***'"


def test_a_long_command_is_cut() -> None:
    assert len(run_name(enabled(command=["x" * 1000]))) < 80


@bounded(100)
@given(nonsense | mutated_payloads())
def test_every_payload_has_a_name_of_one_line(raw: object) -> None:
    name = run_name(raw)
    assert len(name.splitlines()) == 1
    assert name.encode()
    assert name == visible(name)
