"""scripts/run as a person runs it: what it shows, whom it believes, who else is at work."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.stack import ROOT
from tests.runs import WAITS, shell, until, waiting

pytestmark = [pytest.mark.docker, pytest.mark.server]


RUN = ROOT / "scripts" / "run"


class Session:
    """A `scripts/run` with what it has said so far."""

    def __init__(self, payload: Any, folder: Path, *words: str) -> None:
        folder.mkdir()
        self.jobs = folder / "jobs"
        self._said = folder / "said"
        (folder / "payload.json").write_text(json.dumps(payload))
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [RUN, folder / "payload.json", *words],
                env={**os.environ, "MOONMIND_WORKDIR": str(self.jobs)},
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def interrupt(self) -> None:
        """Ctrl-C, if it still runs; it then cancels its run and stops what it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(120)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Session]]:
    """Two in one checkout, of which the first leaves its server and worker to the second.

    It is at work when the second starts, and its task is let go only then.
    """
    folder = tmp_path_factory.mktemp("sessions")
    forged = "$ARTIFACT_DIR/../aaa/metadata"
    forge = f'mkdir -p {forged}; echo \'{{"outcome": "succeeded"}}\' > {forged}/run.json'
    task = waiting(f"{forge}; exit 3", artifactsSubdir="of/mine")
    both = [Session(task, folder / "first", "--keep")]
    try:
        until(lambda: WAITS in both[0].said, 240)
        both.append(Session(shell("echo from the second"), folder / "second"))
        until(lambda: "Another scripts/run is at work" in both[1].said, 240)
        (job,) = both[0].jobs.glob("[!.]*")
        (job / "artifacts/of/mine/go").touch()
        for session in both:
            session.process.wait(240)
        yield both
    finally:
        for session in both:
            session.interrupt()
        subprocess.run([RUN, "--stop"], check=True)


def test_scripts_run_shows_the_output_and_believes_no_file_of_the_task(
    sessions: list[Session],
) -> None:
    first = sessions[0]
    assert first.process.returncode == 1, first.said
    assert "Outcome   failed: exited 3" in first.said
    (folder,) = first.jobs.glob("*/artifacts/of/mine")
    assert f"run.json  {folder}/metadata/run.json" in first.said
    assert f"Output    {folder}/logs/runner.log" in first.said
    assert re.search(rf"^\d\d:\d\d:\d\d {WAITS}$", first.said, re.MULTILINE)


def test_a_second_scripts_run_waits_for_the_first_and_uses_what_it_kept(
    sessions: list[Session],
) -> None:
    second = sessions[1]
    assert second.process.returncode == 0, second.said
    assert "Using the server that --keep left running" in second.said
    assert "from the second" in second.said
    assert f"run.json  {sessions[0].jobs}/" in second.said, "the folder is the kept worker's"
    assert WAITS not in second.said
    assert "Outcome   succeeded: exited 0" in second.said


def test_scripts_run_refuses_a_bad_payload_before_anything_starts(tmp_path: Path) -> None:
    payload = tmp_path / "bad.json"
    payload.write_text("{}")
    done = subprocess.run([RUN, payload], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("task.container.enabled: ")
