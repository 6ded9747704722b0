"""Checks of this host: `MOONMIND_*` variables, git, the job folders and their disk."""

import asyncio
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from flows.cli.doctor.checkup import Check, Finding, Part, fault, ok, warning
from flows.errors import HostMisconfigured, WorkspaceError
from flows.settings import HostSettings
from flows.units import size
from flows.workspace.folder import RUNS_FOLDER, Workspace

SETTINGS, GIT, WORKDIR, ROOM = "settings", "git", "job folders", "disk of the job folders"

# The first that takes its configuration from the environment, where credentials are safe.
_GIT = (2, 31)


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
    if free_bytes < 10 * 1024**3:
        return warning(name, f"only {says}", mend)
    return ok(name, says)


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
