"""What a terminal is shown of a container's output, and of a run that waits."""

import io
import sys
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from flows.cli import follow
from flows.cli.console import Console


class Terminal(io.TextIOWrapper):
    """Standard output that says that a person reads it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("size", [1, 7, 64 * 1024, 160_000])
def test_a_line_that_does_not_end_is_cut_between_characters(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    shown, text = io.BytesIO(), ("a" + 80_000 * "é").encode()
    monkeypatch.setattr(sys, "stdout", Terminal(shown, "utf-8"))
    with Console().raw() as write:
        for start in range(0, len(text), size):
            write(text[start : start + size])
    parts = shown.getvalue().decode().split("\n")
    assert "".join(parts) == "a" + 80_000 * "é"
    assert len(parts[0]) > 64 * 1024, "the limit is one of characters"


def test_a_character_that_never_ends_is_shown_as_one_that_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(shown, "utf-8"))
    with Console().raw() as write:
        write("é".encode()[:1])
    assert shown.getvalue().decode() == "\N{REPLACEMENT CHARACTER}\n"


def test_a_pool_that_has_no_worker_is_asked_for_one_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pool, asked = "a-pool", []

    def read_workers(name: str) -> list[Any]:
        asked.append(name)
        return []

    monkeypatch.setattr(follow, "_WORKER_SECONDS", -1)
    state: Any = Scheduled()
    run = FlowRun(flow_id=uuid4(), state=state, work_pool_name=pool)
    client: Any = SimpleNamespace(read_workers_for_work_pool=read_workers)
    waiting = follow._Waiting(client, Console())
    for _ in range(3):
        waiting.tell(run)
    assert asked == [pool]
    assert capsys.readouterr().err.count("No worker of the pool a-pool is online") == 1
