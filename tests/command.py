"""The command `container-task`: as a process of its own, and called in this one."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_UI_URL,
    temporary_settings,
)

from flows.cli import run
from tests.runs import until

COMMAND = Path(sys.executable).with_name("container-task")


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines_of_json(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def environment(**settings: str) -> dict[str, str]:
    """This process's own, without its settings of the runner and of Prefect."""
    ours = ("MOONMIND_", "PREFECT_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return kept | settings


def container_task(*words: str, stdin: str = "", **settings: str) -> Result:
    """The console script in a process of its own, with nothing of this one's settings."""
    done = subprocess.run(
        [COMMAND, *words],
        input=stdin,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def started(
    *words: str,
    settings: Mapping[str, str] | None = None,
    on_interrupt: signal.Handlers = signal.SIG_DFL,
) -> "subprocess.Popen[str]":
    """The console script as a process that can be interrupted, its outputs pipes. It inherits what
    becomes of SIGINT, which a shell without job control lets its background jobs ignore."""
    return subprocess.Popen(
        [COMMAND, *words],
        env=environment(**(settings or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        preexec_fn=partial(signal.signal, signal.SIGINT, on_interrupt),
    )


def read_until(process: "subprocess.Popen[str]", text: str) -> list[str]:
    """The lines of its standard output, up to the one with `text`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"ended before {text!r}: {lines}")


class Here:
    """The command called in this process: a start of Prefect takes seconds."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> Result:
        self._capsys.readouterr()
        try:
            status = run(words)
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = self._capsys.readouterr()
        return Result(status, captured.out, captured.err)

    def interrupted(self, *words: str, at: str) -> Result:
        """Call it, and interrupt it as Ctrl-C does once it has printed `at`, wherever."""
        shown = [cast(io.StringIO, stream) for stream in (sys.stdout, sys.stderr)]
        lock, is_over = threading.Lock(), False

        def interrupt() -> None:
            until(lambda: is_over or any(at in each.getvalue() for each in shown))
            # Under the lock, so that no signal comes after the command's end.
            with lock:
                if not is_over:
                    os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self._capsys.readouterr()
        thread.start()
        try:
            return self(*words)
        finally:
            with suppress(KeyboardInterrupt), lock:
                is_over = True
            # Also where the signal came while this waited for the lock.
            is_over = True
            thread.join()
            signal.signal(signal.SIGINT, before)


@contextmanager
def server_at(url: str | None, ui: str | None = None, auth: str | None = None) -> Iterator[None]:
    """The server that the command called in this process talks to."""
    values = {PREFECT_API_URL: url, PREFECT_UI_URL: ui, PREFECT_API_AUTH_STRING: auth}
    given = {setting: value for setting, value in values.items() if value is not None}
    left_out = [setting for setting, value in values.items() if value is None]
    with temporary_settings(updates=given, restore_defaults=left_out):
        yield
