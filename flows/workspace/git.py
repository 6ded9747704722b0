"""`git fetch` and `git checkout` of one ref into the job's folder."""

import asyncio
import re
import signal
from contextlib import suppress
from os import killpg
from pathlib import Path

from flows.errors import RepositoryRejected, WorkspaceError
from flows.masking import Masker
from flows.payload.repository import Remote
from flows.workspace.git_access import GitAccess, HostAccess, git_access
from flows.workspace.git_environment import git_environment
from flows.workspace.git_failures import git_failure

CLONE_TIMEOUT_SECONDS = 3600
_NOTHING_SAID = HostAccess()


async def checkout(
    remote: Remote,
    ref: str | None,
    folder: Path,
    *,
    pinned: bool = False,
    host: HostAccess = _NOTHING_SAID,
) -> str:
    """Check `ref` (default: the remote's HEAD) out into an empty `folder`; return the commit.

    Where `pinned`, and with credentials, no redirection is followed. Raises `RepositoryRejected`
    where the repository or ref is missing or may not be read, otherwise `WorkspaceError`.
    """
    pinned |= bool(remote.username or remote.password)
    with git_access(remote, host) as access:
        return await _checkout(_GitCommand(folder, remote, access, pinned=pinned), remote, ref)


async def _checkout(git: "_GitCommand", remote: Remote, ref: str | None) -> str:
    await git("init", "--quiet", "--initial-branch=main", "--template=", ".")
    await git("remote", "add", "origin", remote.url)
    try:
        await git("fetch", "--quiet", "--no-tags", "--depth=1", "origin", ref or "HEAD")
        target = "FETCH_HEAD"
    except RepositoryRejected:
        if ref is None or not re.fullmatch(r"[0-9a-fA-F]{7,64}", ref):
            raise
        # Many servers serve a bare commit only as part of the history that leads to it.
        await git("fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
        target = f"{ref}^{{commit}}"
    await git("checkout", "--quiet", "--detach", target, "--")
    return (await git("rev-parse", "HEAD")).strip()


class _GitCommand:
    def __init__(self, folder: Path, remote: Remote, access: GitAccess, *, pinned: bool) -> None:
        self._folder = folder
        self._remote = remote
        self._environment = git_environment(remote, pinned=pinned, access=access)
        self._masker = Masker(remote.secrets)

    async def __call__(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "git",
            *arguments,
            cwd=self._folder,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            # The container's user, whoever that is, must be able to write in the checkout.
            umask=0,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), CLONE_TIMEOUT_SECONDS)
        except TimeoutError:
            raise WorkspaceError(
                f"fetching {self._remote.display} took longer than {CLONE_TIMEOUT_SECONDS} s"
            ) from None
        finally:
            # Its children as well.
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            said = self._masker.text(err.decode("utf-8", "replace"))
            raise git_failure(said, self._remote.display)
        return out.decode("utf-8", "replace")
