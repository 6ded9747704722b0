"""A run that is to be repeated, from a payload or a `run.json`, and the removal of what is left.

A marker beside a job's lock tells that the job is a replay of this folder. What other folders,
users and hosts replay on the same engine has none here, and is left alone.
"""

import asyncio
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.engine.contract import Engine
from flows.engine.selection import open_engine
from flows.errors import ContainerTaskError, Fault, PayloadError
from flows.runtime.collect import reclaim, remove_left_behind
from flows.runtime.store import AttemptStore, Busy
from flows.settings import HostSettings
from flows.spec import JOB_ID_PLACEHOLDER, ContainerSpec
from flows.workspace.folder import RUNS_FOLDER, Workspace

# What a run.json does not tell.
UNTOLD = "environment, secrets (*** in the command), entrypoint, user, network and caches"
_ASKED = ("path", "required", "type")
LABEL_REPLAY = "moonmind.replay_of"
_SUFFIX = ".replay"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recording:
    """A payload, and what its run made of it: the image's digest and id, and the commit. `job_id`
    and `deployment` are the run's, where there was one."""

    payload: Mapping[str, Any]
    job_id: str | None = None
    image_digest: str | None = None
    image_id: str | None = None
    commit: str | None = None
    timeout_seconds: int | None = None
    deployment: str = ""

    def pinned(self) -> dict[str, Any]:
        """The payload for the very same image and commit, where they are known."""
        raw = copy.deepcopy(dict(self.payload))
        task = raw.get("task")
        container = task.get("container") if isinstance(task, dict) else None
        if not isinstance(task, dict) or not isinstance(container, dict):
            return raw
        image = container.get("image")
        if self.image_digest and isinstance(image, str) and "@" not in image:
            container["image"] = f"{image.strip()}@{self.image_digest}"
        if container.get("pull") == "always" and self.image_digest:
            container["pull"] = "if-missing"
        if self.commit:
            git = task.get("git")
            branch = {"startingBranch": self.commit}
            task["git"] = {**git, **branch} if isinstance(git, dict) else branch
        return raw


def recording_of(payload: object, facts: Mapping[str, Any], job_id: str | None) -> Recording:
    """Of a payload, and the facts of its run as `run.json` names them, where there are any."""
    if not isinstance(payload, Mapping):
        raise PayloadError(
            [Fault("payload", "is missing or no object: the run cannot be repeated")]
        )
    timeout = str(facts.get("timeoutSeconds") or "")
    return Recording(
        payload,
        job_id,
        _text_or_none(facts.get("imageDigest")),
        _text_or_none(facts.get("imageId")),
        _text_or_none(facts.get("commit")),
        int(timeout) if timeout.isdecimal() else None,
    )


def is_run_json(raw: object) -> bool:
    """Whether it is a run's metadata rather than a payload."""
    return isinstance(raw, Mapping) and "jobId" in raw and "image" in raw and "task" not in raw


def recording_of_run_json(facts: Mapping[str, Any]) -> Recording:
    """Of a `run.json` alone, which tells most of it but not all: `UNTOLD` is left out."""
    job_id = str(facts["jobId"])
    container = {
        "enabled": True,
        "image": facts.get("image"),
        "command": facts.get("command"),
        "workdir": str(facts.get("workdir") or "").replace(job_id, JOB_ID_PLACEHOLDER) or None,
        "artifactsSubdir": facts.get("artifactsSubdir"),
        "timeoutSeconds": facts.get("timeoutSeconds"),
        "pull": facts.get("pullMode"),
        "resources": _recorded_limits(facts.get("limits")),
        "outputs": _asked_outputs(facts.get("outputs")),
    }
    payload = {
        "repository": facts.get("repository"),
        "task": {
            "instructions": facts.get("instructions"),
            "container": {key: value for key, value in container.items() if value is not None},
        },
    }
    return recording_of(payload, facts, job_id)


def _recorded_limits(limits: object) -> dict[str, Any] | None:
    """The limits that the container had, whether its payload or a policy set them."""
    if not isinstance(limits, Mapping):
        return None
    found = {
        "cpus": limits.get("cpus"),
        "memory": _text_or_none(limits.get("memoryBytes")),
        "pids": limits.get("pids"),
        "shm": _text_or_none(limits.get("shmBytes")),
        "gpus": limits.get("gpus"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _asked_outputs(reported: object) -> list[dict[str, Any]] | None:
    """The outputs that were asked for, without what became of them."""
    if not isinstance(reported, list):
        return None
    outputs = (each for each in reported if isinstance(each, Mapping))
    return [{key: each[key] for key in _ASKED if key in each} for each in outputs]


def _text_or_none(value: object) -> str | None:
    return str(value) if value else None


def marker(root: Path, job_id: str) -> Path:
    """Tells a folder of a replay from one of a worker's jobs."""
    return root / RUNS_FOLDER / f"{job_id}{_SUFFIX}"


async def remove(
    store: AttemptStore, workspace: Workspace, spec: ContainerSpec, say: Say, *, began: bool
) -> None:
    """Remove a replay that is over, for whoever holds its lock; `began` where there can be a
    container. What cannot be removed is said, and stays for `clean`."""
    try:
        async with open_engine() as engine:
            if began:
                await _discard(engine, spec.job_id)
            await reclaim(engine, workspace, spec)
        await asyncio.to_thread(workspace.remove)
        store.forget()
    except (ContainerTaskError, OSError) as error:
        say(
            f"Something of the replay is left, as it could not be removed: {error}. "
            "container-task replay --clean removes it."
        )


async def clean(root: Path, volume: str, host: HostSettings) -> list[str]:
    """Remove what the replays of the folder `root` left; what was removed, a sentence each. Replays
    that are still running stay."""
    removed: list[str] = []
    jobs = sorted(path.stem for path in (root / RUNS_FOLDER).glob(f"*{_SUFFIX}"))
    if not jobs:
        return removed
    async with open_engine() as engine:
        for job_id in jobs:
            store = AttemptStore(root, job_id)
            try:
                with store.held(make=True):
                    removed += await _discard(engine, job_id)
                    workspace = Workspace(root, job_id, volume)
                    if workspace.folder.exists():
                        await asyncio.to_thread(workspace.remove)
                        removed.append(f"removed {workspace.folder}")
                    store.forget()
            except Busy:
                continue
        if removed:
            changed = {"workdir": root, "workspace_volume": volume}
            await remove_left_behind(engine, host.model_copy(update=changed))
    return removed


async def _discard(engine: Engine, job_id: str) -> list[str]:
    owned = [each for each in await engine.owned() if each.job_id == job_id]
    return [f"removed the {o.kind} {o.name}" for o in owned if await engine.discard(o)]
