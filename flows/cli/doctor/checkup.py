"""Checks as data, and asyncio tasks that run them side by side, each after those that it needs.

A check never raises and never hangs: whatever it meets becomes a finding. Those of
`host_checks` look at this host: `MOONMIND_*` variables, git, the job folders and their disk.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from flows.errors import ContainerTaskError, HostMisconfigured, WorkspaceError
from flows.settings import HostSettings
from flows.units import size
from flows.workspace.folder import RUNS_FOLDER, Workspace

_LOOK = "see in docs/cli.md what doctor looks at there, mend what this says, and look again"
SETTINGS, GIT, WORKDIR, ROOM = "settings", "git", "job folders", "disk of the job folders"
# The first that takes its configuration from the environment, where credentials are safe.
_GIT = (2, 31)


class Part(StrEnum):
    """What a check looks at."""

    HOST = "host"
    ENGINE = "engine"
    PREFECT = "prefect"


class Level(StrEnum):
    """How a check ended. Published: never rename one."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: `says` is what is so, and where; `mend` what to do about it."""

    level: Level
    name: str
    says: str
    mend: str = ""


ok = partial(Finding, Level.OK)
# Work can be accepted, and something is not as it should be.
warning = partial(Finding, Level.WARNING)
# Work cannot be accepted like this.
fault = partial(Finding, Level.FAULT)
skipped = partial(Finding, Level.SKIPPED)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at, within `seconds`; left out where one that it `needs` has a fault. Of
    one that `is_silent`, only those that need it tell."""

    name: str
    part: Part
    look: Callable[[], Coroutine[Any, Any, Sequence[Finding]]]
    needs: tuple[str, ...] = ()
    seconds: float = 30.0
    is_silent: bool = False


def split_advice(sentence: str) -> tuple[str, str]:
    """What an error's sentence says is so, and what to do, which it tells after a semicolon."""
    says, _, mend = sentence.rpartition("; ")
    return (says, mend) if says else (sentence, "")


async def run_checks(
    checks: Sequence[Check], tell: Callable[[Sequence[str]], None]
) -> list[tuple[Check, Finding]]:
    """Everything that the checks find, in their order; `tell` hears which are still at it."""
    silent = {check.name for check in checks if check.is_silent}
    running: dict[str, asyncio.Task[Sequence[Finding]]] = {}

    async def run(check: Check) -> Sequence[Finding]:
        for need in check.needs:
            for each in await running[need]:
                if each.level in (Level.FAULT, Level.SKIPPED):
                    says = f"not looked at, because of {need}"
                    if need in silent:
                        return [skipped(check.name, f"{says}: {each.says}", each.mend)]
                    return [skipped(check.name, says)]
        return await _within_limits(check)

    for check in checks:
        running[check.name] = asyncio.create_task(run(check))
    left = set(running.values())
    while left:
        tell([name for name, task in running.items() if task in left])
        _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
    loud = (check for check in checks if not check.is_silent)
    return [(check, each) for check in loud for each in running[check.name].result()]


async def _within_limits(check: Check) -> Sequence[Finding]:
    """What a check finds; a fault where it takes too long or raises."""
    try:
        async with asyncio.timeout(check.seconds):
            return await check.look()
    except TimeoutError:
        says = f"gave no answer within {check.seconds:.0f} s"
        return [fault(check.name, says, "see whether what it looks at hangs, and look again")]
    except ContainerTaskError as error:
        says, mend = split_advice(str(error))
        return [fault(check.name, says, mend or _LOOK)]
    except Exception as error:  # noqa: BLE001 - one check must not keep the others from telling
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return [fault(check.name, f"could not be looked at ({said})", _LOOK)]


def host_checks() -> list[Check]:
    """The checks of the part `host`."""
    return [
        Check(SETTINGS, Part.HOST, check_settings),
        Check(GIT, Part.HOST, check_git),
        Check(WORKDIR, Part.HOST, check_workdir, needs=(SETTINGS,)),
        Check(ROOM, Part.HOST, check_room, needs=(SETTINGS,)),
    ]


async def check_settings() -> Sequence[Finding]:
    """Whether every `MOONMIND_*` variable has a value that it takes."""
    try:
        host = HostSettings.from_environment()
    except HostMisconfigured as error:
        mend = "correct it in the environment of the worker; docs/operating.md lists them"
        return [fault(SETTINGS, str(error), mend)]
    how = f"the volume {host.workspace_volume}" if host.workspace_volume else "bind mounts"
    return [ok(SETTINGS, f"jobs in {host.workdir}, shown to containers by {how}")]


async def check_git() -> Sequence[Finding]:
    """Whether there is a git that can check repositories out."""
    mend = "install git 2.31 or newer for the worker"
    try:
        process = await asyncio.create_subprocess_exec(
            "git", "--version", stdout=asyncio.subprocess.PIPE
        )
        said = (await process.communicate())[0].decode(errors="replace").strip()
    except OSError as error:
        says = f"the command git cannot be run here ({error.strerror}): no repository can be had"
        return [fault(GIT, says, mend)]
    found = re.search(r"(\d+)\.(\d+)", said)
    if found and (int(found[1]), int(found[2])) >= _GIT:
        return [ok(GIT, said)]
    return [fault(GIT, f"{said or 'what is named git'} is too old for this runner", mend)]


async def check_workdir() -> Sequence[Finding]:
    """Whether a job's folder can be made and removed."""
    host = HostSettings.from_environment()
    workspace = Workspace(host.workdir, str(uuid4()), host.workspace_volume)

    def make() -> None:
        with without_leftovers(host.workdir):
            try:
                workspace.create("container")
            finally:
                workspace.remove()

    try:
        await asyncio.to_thread(make)
    except WorkspaceError as error:
        mend = "name a folder of the worker's own in MOONMIND_WORKDIR, or make this one its own"
        return [fault(WORKDIR, str(error), mend)]
    return [ok(WORKDIR, f"{host.workdir} takes them")]


async def check_room() -> Sequence[Finding]:
    """How much fits on the disk of the job folders."""
    root = HostSettings.from_environment().workdir
    there = next(each for each in (root, *root.parents) if each.exists())
    return [
        room_finding(ROOM, str(root), shutil.disk_usage(there).free, os.statvfs(there).f_favail)
    ]


def room_finding(name: str, where: str, free_bytes: int, free_files: int | None = None) -> Finding:
    """What so much free space means."""
    mend = "make room there: remove old job folders (docs/storage.md) or unused images"
    says = f"{size(free_bytes)} are free at {where}"
    if free_bytes < 1024**3:
        return fault(name, f"only {says}: a checkout or an image would fill it", mend)
    # Of file systems that count none, 0 are free.
    if free_files and free_files < 10_000:
        return warning(name, f"only {free_files} more files fit at {where}", mend)
    return warning(name, f"only {says}", mend) if free_bytes < 10 * 1024**3 else ok(name, says)


@contextmanager
def without_leftovers(root: Path) -> Iterator[None]:
    """Remove the folders that the block makes down to `root`, where nobody uses them."""
    made = [each for each in (root / RUNS_FOLDER, root, *root.parents) if not each.exists()]
    try:
        yield
    finally:
        for folder in made:
            try:
                folder.rmdir()
            except OSError:
                # Somebody has put something there meanwhile, or it was never made.
                break
