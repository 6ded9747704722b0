"""What a replay leaves behind, and its removal: at its end, or when somebody asks for it.

A marker beside a job's lock tells that the job is a replay of this folder. What other folders,
users and hosts replay on the same engine has none here, and is left alone.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from flows.engine.contract import Engine
from flows.engine.selection import open_engine
from flows.errors import ContainerTaskError
from flows.runtime.collect import reclaim, remove_left_behind
from flows.runtime.store import AttemptStore, Busy
from flows.settings import HostSettings
from flows.spec import ContainerSpec
from flows.workspace.folder import RUNS_FOLDER, Workspace

LABEL_REPLAY = "moonmind.replay_of"
_SUFFIX = ".replay"

Say = Callable[[str], None]


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
