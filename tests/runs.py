"""Payloads, and the way to run one and look at everything it left."""

import asyncio
import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prefect.client.schemas.objects import State

from flows.container_task import container_task

T = TypeVar("T")
BUSYBOX = "moonmind-local/busybox:1.36"
PYTHON = "moonmind-local/python:3"
GCC = "moonmind-local/gcc:12"
NODE = "moonmind-local/node:18"
WAITS = "the task waits"
# For a limit of memory. Of these kills the engine hears: containerd on cgroup v1 loses those of a
# container's first moment, and of its last process.
EAT_MEMORY = "for n in 1 2 3; do tail /dev/zero; sleep 0.5; done"


def payload(*command: str, image: str = BUSYBOX, task: Any = None, **container: Any) -> Any:
    """A payload for `command`; keyword arguments are keys of `task.container`."""
    settings = {"enabled": True, "image": image, "command": list(command), "pull": "never"}
    return {"task": {**(task or {}), "container": settings | container}}


def shell(script: str, **container: Any) -> Any:
    """A payload for a shell script."""
    return payload("sh", "-c", script, **container)


def waiting(then: str, **container: Any) -> Any:
    """A payload that prints `WAITS`, waits for the file `go` in its artifacts, and goes on."""
    # In two halves, because logs tell the command as well.
    say = 'echo "the task"" waits"'
    script = f"{say}; until [ -e $ARTIFACT_DIR/go ]; do sleep 0.1; done; {then}"
    return shell(script, timeoutSeconds=120, **container)


def until(is_so: Callable[[], T | None], seconds: float = 120, what: str = "the condition") -> T:
    """Ask until the answer is true, and return it; fail with `what` when it never is."""
    deadline, pauses = time.monotonic() + seconds, _pauses()
    while not (answer := is_so()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(next(pauses))
    return answer


async def until_async(is_so: Callable[[], object], seconds: float = 120) -> None:
    """The same, in a loop that goes on meanwhile."""
    deadline, pauses = time.monotonic() + seconds, _pauses()
    while not is_so():
        assert time.monotonic() < deadline, f"the condition did not hold within {seconds} s"
        await asyncio.sleep(next(pauses))


def _pauses() -> Iterator[float]:
    """Short at first; what takes long is asked for ten times a second."""
    yield from (0.01, 0.02, 0.04, 0.08)
    yield from itertools.repeat(0.1)


def left_on_engine(job_id: str, host: str = "") -> list[str]:
    """Containers, volumes and networks that carry the job's label."""
    docker = ["docker", "--host", host] if host else ["docker"]
    label = f"label=moonmind.job_id={job_id}"
    listings = (
        ["container", "ls", "--all", "--quiet", "--filter", label],
        ["volume", "ls", "--quiet", "--filter", label],
        ["network", "ls", "--quiet", "--filter", label],
    )
    found = (
        subprocess.run([*docker, *words], capture_output=True, text=True, check=True).stdout
        for words in listings
    )
    return [name for output in found for name in output.split()]


@dataclass(frozen=True)
class Finished:
    """One run that is over."""

    state: State[Any]
    folder: Path

    @property
    def job_id(self) -> str:
        return self.folder.name

    @property
    def message(self) -> str:
        return self.state.message or ""

    def file(self, path: str) -> Path:
        """A file below `artifacts/`."""
        return self.folder / "artifacts" / path

    @property
    def run_json(self) -> Any:
        found = list(self.folder.glob("artifacts/**/metadata/run.json"))
        assert len(found) == 1, f"one run.json expected below {self.folder}, found {found}"
        return json.loads(found[0].read_text())

    @property
    def output(self) -> str:
        return (self.file(self.run_json["artifactsSubdir"]) / "logs" / "runner.log").read_text()


class Runner:
    """Runs `container_task` in this process, as a test of somebody's own flow would."""

    def __init__(self, jobs_folder: Path) -> None:
        self._jobs_folder = jobs_folder

    async def __call__(self, payload: object) -> Finished:
        state = await container_task(payload, return_state=True)
        job_id = str(state.state_details.flow_run_id)
        assert left_on_engine(job_id) == [], "the run left something on the engine"
        return Finished(state, self._jobs_folder / job_id)
