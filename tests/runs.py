"""Payloads, and the way to run one and look at everything it left."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State

from flows.container_task import container_task

BUSYBOX = "moonmind-local/busybox:1.36"
PYTHON = "moonmind-local/python:3"
GCC = "moonmind-local/gcc:12"
NODE = "moonmind-local/node:18"


def payload(*command: str, image: str = BUSYBOX, task: Any = None, **container: Any) -> Any:
    """A payload for `command`; keyword arguments are keys of `task.container`."""
    settings = {"enabled": True, "image": image, "command": list(command), "pull": "never"}
    return {"task": {**(task or {}), "container": settings | container}}


def shell(script: str, **container: Any) -> Any:
    """A payload for a shell script."""
    return payload("sh", "-c", script, **container)


def left_on_engine(job_id: str) -> list[str]:
    """Containers, volumes and networks that carry the job's label."""
    label = f"label=moonmind.job_id={job_id}"
    listings = (
        ["container", "ls", "--all", "--quiet", "--filter", label],
        ["volume", "ls", "--quiet", "--filter", label],
        ["network", "ls", "--quiet", "--filter", label],
    )
    found = (
        subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout
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
