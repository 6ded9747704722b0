"""`git fetch` and `git checkout` of one ref into the job's folder; again, where that may help."""

import asyncio
import os
import re
import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from flows.errors import (
    CheckoutTooLarge,
    RefMissing,
    RepositoryMoved,
    RepositoryRejected,
    WorkspaceError,
)
from flows.payload.repository import Remote
from flows.workspace.git_access import HostAccess, git_access
from flows.workspace.git_command import GitCommand, GitLimits
from flows.workspace.git_redirect import Allows, followed
from flows.workspace.git_tree import LIST_TREE, TreeCount
from flows.workspace.git_warnings import missing
from flows.workspace.tree import remove_tree

Say = Callable[[str], None]
_MOST_REDIRECTIONS = 4
_NO_LIMITS_SET = GitLimits()
_NOTHING_SAID = HostAccess()


def _nothing(_: str) -> None: ...


async def checkout(
    remote: Remote,
    ref: str | None,
    folder: Path,
    *,
    pinned: bool = False,
    host: HostAccess = _NOTHING_SAID,
    allows: Allows = lambda _: True,
    limits: GitLimits = _NO_LIMITS_SET,
    pauses: Sequence[float] = (),
    say: Say = _nothing,
) -> str:
    """Check `ref` (default: the remote's HEAD) out into an empty `folder`; return the commit.

    What may pass is tried again after each of `pauses`, which `say` is told, as it is of what the
    checkout lacks: contents of LFS files, and submodules. Where `pinned`, and with credentials, a
    redirection is followed to the same server only, and to what `allows` lets pass. Raises
    `RepositoryRejected` where the repository or ref is missing, too large or may not be read,
    otherwise `WorkspaceError`.
    """
    pinned |= bool(remote.username or remote.password)
    asked, limits = limits, limits.within(folder)
    try:
        # As git would have made it.
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~0o022)
        with git_access(remote, host) as access:
            git_for = partial(GitCommand, folder, access, limits, pinned=pinned)
            async with asyncio.timeout(limits.seconds):
                for pause in pauses:
                    try:
                        return await _wherever_it_is(git_for, remote, ref, allows, say)
                    except WorkspaceError as error:
                        if not error.may_pass:
                            raise
                        say(f"{error}; tried again in {pause:g} s")
                    await asyncio.to_thread(_empty, folder)
                    await asyncio.sleep(pause)
                return await _wherever_it_is(git_for, remote, ref, allows, say)
    except CheckoutTooLarge:
        if limits.disk_bytes == asked.disk_bytes:
            raise
        raise WorkspaceError(
            f"{remote.display} cannot be fetched: it takes more than nine tenths of what is free "
            "on the disk of the job folders; make room there"
        ) from None
    except TimeoutError:
        raise WorkspaceError(
            f"fetching {remote.display} took longer than {limits.seconds:g} s"
        ) from None


async def _wherever_it_is(
    git_for: Callable[[Remote], GitCommand],
    remote: Remote,
    ref: str | None,
    allows: Allows,
    say: Say,
) -> str:
    for _ in range(_MOST_REDIRECTIONS):
        git = git_for(remote)
        try:
            return await _checkout(git, ref, say)
        except RepositoryMoved:
            if not git.pinned:
                # git has followed it, and found no repository there.
                raise
            remote = await followed(git, allows)
        await asyncio.to_thread(_empty, git.folder)
    raise RepositoryMoved(
        f"{remote.display} cannot be checked out: its server sends from one address to the next"
    )


async def _checkout(git: GitCommand, ref: str | None, say: Say) -> str:
    remote, limits = git.remote, git.limits
    await git("init", "--quiet", "--initial-branch=main", "--template=", ".")
    await git("remote", "add", "origin", remote.url)
    target = await _fetch(git, ref)
    # Beside the pack, which is there by now.
    room = limits.within(git.folder)
    count = TreeCount(remote.display, room.files, room.disk_bytes)
    await git(*LIST_TREE, target, hear=count.hear)
    await git("checkout", "--quiet", "--detach", target, "--", watch=count.written)
    for sentence in await missing(git, count):
        say(sentence)
    return (await git("rev-parse", "HEAD")).strip()


async def _fetch(git: GitCommand, ref: str | None) -> str:
    """Fetch the commit that `ref` names; what git calls it from then on."""
    for name in _names(ref):
        try:
            await git("fetch", "--quiet", "--no-tags", "--depth=1", "origin", name)
        except RefMissing as error:
            missing: RepositoryRejected = error
        except RepositoryRejected as error:
            if not _is_commit(ref):
                raise
            missing = error
        else:
            return "FETCH_HEAD"
    if not _is_commit(ref):
        raise missing
    # Many servers serve a bare commit only as part of the history that leads to it. Unlike a fetch,
    # a clone writes all refs into one file, however many there are.
    await asyncio.to_thread(_empty, git.folder)
    how = ("--quiet", "--no-checkout", "--template=", "--origin=origin")
    await git("clone", *how, git.remote.url, ".")
    return f"{ref}^{{commit}}"


def _names(ref: str | None) -> tuple[str, ...]:
    """What a ref may be called in full, in the order of `git checkout`: a branch, then what git
    itself makes of the word, a tag above all."""
    if ref is None:
        return ("HEAD",)
    if ref == "HEAD" or ref.startswith("refs/") or re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", ref):
        return (ref,)
    return (f"refs/heads/{ref}", ref)


def _is_commit(ref: str | None) -> bool:
    return ref is not None and re.fullmatch(r"[0-9a-fA-F]{7,64}", ref) is not None


def _empty(folder: Path) -> None:
    for child in os.scandir(folder):
        if child.is_dir(follow_symlinks=False):
            remove_tree(Path(child.path))
        else:
            os.unlink(child)
