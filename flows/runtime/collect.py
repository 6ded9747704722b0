"""Collect what a stopped container left, and `chown` it back to this process by a helper container.

What a task left may be such that the process which looks at it dies. What is known of the run
without it, its exit code above all, is not to die with that.
"""

import asyncio
import os
import traceback
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from flows.attempt import Prepared
from flows.engine.contract import Engine
from flows.engine.types import RECLAIM_SECONDS, HelperImage, Owner, plan_reclaim
from flows.errors import EngineError, ImageError
from flows.masking import Masker
from flows.outcome import Outcome
from flows.outputs.verdict import collected, uncollected, verdict_on
from flows.results import Results
from flows.runtime.context import Job
from flows.runtime.helper_image import helper_image
from flows.runtime.store import AttemptStore
from flows.settings import HostSettings
from flows.spec import JOB_ROOT, LABEL_JOB_ID, NAME_PREFIX, ContainerSpec, Mount
from flows.text import one_line
from flows.threads import to_the_end
from flows.workspace.folder import REMOVED, Workspace, left_behind
from flows.workspace.listing import Ownership, ownership
from flows.workspace.tree import remove_tree

# A worker may be restarted just then; to end a second time there is hardly chance.
_MAX_TRIES = 2
_DIED = (
    f"its outputs and test reports were left alone: {_MAX_TRIES} processes ended while they looked "
    "at them"
)


async def collect_results(
    engine: Engine, job: Job, prepared: Prepared, masker: Masker | None, outcome: Outcome
) -> Outcome:
    """The outcome of a container that has stopped, by its outputs and test reports; raises nothing.

    `masker` is None where its secrets are not known.
    """
    workspace, spec = prepared.workspace, prepared.spec

    async def look() -> Results:
        return collected(workspace, spec, masker, prepared.ready_ns)

    try:
        kept = await reclaim(engine, workspace, spec)
        outcome = replace(outcome, cleanup_error=kept)
        if _tries(job.store, spec.attempt) > _MAX_TRIES:
            return verdict_on(outcome, uncollected(spec, masker, _DIED))
        # To its end: another process, or this one again, may be about to do the same.
        return verdict_on(outcome, await to_the_end(look()))
    except Exception as error:  # noqa: BLE001 - of a stranger's files comes almost anything
        said = type(error).__name__
        if masker is not None:
            said = one_line(masker.text(f"{said}: {error}"), 200)
            where = masker.text("".join(traceback.format_exception(error)))
            job.logger.error("The outputs and test reports could not be looked at:\n%s", where)
        sentence = f"its outputs and test reports could not all be looked at ({said})"
        return verdict_on(outcome, uncollected(spec, masker, sentence))


def _tries(store: AttemptStore, attempt: int) -> int:
    """How often this was begun, with this time."""
    try:
        return store.note_look(attempt)
    except OSError:
        # The task may have filled the disk. What room is kept for, the outcome needs.
        return 1


# With the pull of its image, where it is missing; well within what the limits of a run allow for.
_LIMIT_SECONDS = RECLAIM_SECONDS + 120.0


async def reclaim(engine: Engine, workspace: Workspace, spec: ContainerSpec) -> str | None:
    """Make all in the job's folder this process's; one sentence on what kept it from that.

    Its container must have stopped. Done to its end also where the caller is cancelled.
    """
    return await _reclaim(engine, workspace.folder, workspace.mount, spec.name, spec.labels)


async def remove_left_behind(engine: Engine, host: HostSettings) -> list[str]:
    """Remove what earlier removals had to leave in `MOONMIND_WORKDIR`; a sentence for each."""
    told = []
    for folder in await asyncio.to_thread(left_behind, host.workdir):
        name, mount, labels = of_left_behind(folder, host.workspace_volume)
        reason = await _reclaim(engine, folder, mount, name, labels)
        await asyncio.to_thread(remove_tree, folder)
        if os.path.lexists(folder):
            told.append(f"could not remove {folder}: {reason or 'something in it is shut'}")
        else:
            told.append(f"removed {folder.name}, which an earlier removal had to leave")
    return told


def of_left_behind(folder: Path, volume: str) -> tuple[str, Mount, Mapping[str, str]]:
    """The name, mount and labels with which a removed folder is given back: its job's."""
    job_id, _, number = folder.name.removeprefix(REMOVED).rpartition("-")
    mount = Workspace(folder.parent, folder.name, volume).mount
    # No attempt has so great a number.
    name = f"{NAME_PREFIX}{job_id}-{int(number, 16) % 10**9:09}"
    return name, replace(mount, target=f"{JOB_ROOT}/{job_id}"), {LABEL_JOB_ID: job_id}


async def _reclaim(
    engine: Engine, folder: Path, mount: Mount, name: str, labels: Mapping[str, str]
) -> str | None:
    user = os.geteuid()
    if user == 0 or await asyncio.to_thread(ownership, folder, user) is Ownership.OURS:
        return None
    image = HostSettings.from_environment().helper_image
    owner = Owner.in_folder(folder.parent)
    decided = plan_reclaim(name, mount, image, owner, labels, datetime.now(UTC))

    async def bounded() -> None:
        async with asyncio.timeout(_LIMIT_SECONDS):
            image_id = await helper_image(engine, folder.parent, HelperImage(image))
            await engine.reclaim(replace(decided, image_id=image_id))

    try:
        await to_the_end(bounded())
    except ImageError as error:
        return _not_given_back(folder, f"{error}, or name another one in MOONMIND_HELPER_IMAGE")
    except EngineError as error:
        return _not_given_back(folder, str(error))
    except TimeoutError:
        return _not_given_back(folder, f"it took longer than {_LIMIT_SECONDS:.0f} s")
    if await asyncio.to_thread(ownership, folder, user) is Ownership.FOREIGN:
        return _not_given_back(folder, "it had no effect; see whether its file system has owners")
    return None


def _not_given_back(folder: Path, reason: str) -> str:
    return f"the files that its container left in {folder} could not all be given back: {reason}"
