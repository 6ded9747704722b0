"""`git fetch` and `git checkout` of one ref into the job's folder.

Credentials travel in the environment of the git process only: not in its arguments, which anyone
on the host can list, and not in `.git/config`, which the container can read.
"""

import asyncio
import base64
import os
import re
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from flows.errors import RepositoryRejected, WorkspaceError
from flows.masking import Masker
from flows.payload.repository import Remote

CLONE_TIMEOUT_SECONDS = 3600
_STALLED_SECONDS = 60
# What the other side says when it was reached and answered no. Everything else is the network's
# or the host's fault, and trying again may help.
_REFUSALS = re.compile(
    r"not found|does not exist|could not read (Username|Password)|Authentication failed"
    r"|access denied|Permission denied|returned error: 40[0134]|couldn't find remote ref"
    r"|Repository not exported|not our ref|unadvertised object|did not match any"
    r"|no such repository|invalid reference|unknown revision|bad object"
    r"|does not appear to be a git repository|not valid: is this a git repository",
    re.IGNORECASE,
)
# What names a repository to git, or says how to use it: a hook of the caller's sets these. They are
# those of `git rev-parse --local-env-vars`, of all its versions.
_ABOUT_A_REPOSITORY = re.compile(
    r"GIT_(ALTERNATE_OBJECT_DIRECTORIES|CONFIG|CONFIG_(COUNT|PARAMETERS|KEY_\d+|VALUE_\d+)|DIR"
    r"|COMMON_DIR|OBJECT_DIRECTORY|WORK_TREE|IMPLICIT_WORK_TREE|INDEX_FILE|SHALLOW_FILE|GRAFT_FILE"
    r"|NO_REPLACE_OBJECTS|REPLACE_REF_BASE|PREFIX|INTERNAL_SUPER_PREFIX|NAMESPACE|QUARANTINE_PATH)"
)


async def checkout(remote: Remote, ref: str | None, folder: Path, *, pinned: bool = False) -> str:
    """Check `ref` (default: the remote's HEAD) out into an empty `folder`; return the commit.

    Where `pinned`, and with credentials, no redirection is followed. Raises `RepositoryRejected`
    where the repository or ref is missing or may not be read, otherwise `WorkspaceError`.
    """
    git = _GitCommand(folder, remote, pinned=pinned or bool(remote.username or remote.password))
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
    def __init__(self, folder: Path, remote: Remote, *, pinned: bool) -> None:
        self._folder = folder
        self._remote = remote
        self._environment = _environment(remote, pinned=pinned)
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
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise self._failure(err.decode("utf-8", "replace"))
        return out.decode("utf-8", "replace")

    def _failure(self, stderr: str) -> RepositoryRejected | WorkspaceError:
        lines = [line for line in self._masker.text(stderr).splitlines() if line.strip()]
        said = next((line for line in lines if "fatal" in line or "rror" in line), "git failed")
        where = self._remote.display
        if _REFUSALS.search(stderr):
            return RepositoryRejected(
                f"{where} cannot be checked out: {said}; check that the repository and the ref "
                "in task.git.startingBranch exist, and that this worker may read them, with the "
                "credentials of the Secret block in auth.repoAuthRef if need be"
            )
        return WorkspaceError(f"{where} cannot be fetched: {said}")


def _environment(remote: Remote, *, pinned: bool) -> Mapping[str, str]:
    config = {
        "http.lowSpeedLimit": "1000",
        "http.lowSpeedTime": str(_STALLED_SECONDS),
        "advice.detachedHead": "false",
        "gc.auto": "0",
    }
    if pinned:
        # What it asks for first may by default be answered by another host.
        config["http.followRedirects"] = "false"
    if remote.url.startswith("http") and (remote.username or remote.password):
        pair = f"{remote.username}:{remote.password}".encode()
        header = f"Authorization: Basic {base64.b64encode(pair).decode()}"
        config[f"http.{remote.url}.extraHeader"] = header
    callers = {k: v for k, v in os.environ.items() if not _ABOUT_A_REPOSITORY.fullmatch(k)}
    return {
        "GIT_ASKPASS": "true",
        "GIT_SSH_COMMAND": f"ssh -oBatchMode=yes -oConnectTimeout={_STALLED_SECONDS}",
        **callers,
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "http:https:ssh:git",
        "GIT_CONFIG_COUNT": str(len(config)),
        **{f"GIT_CONFIG_KEY_{i}": key for i, key in enumerate(config)},
        **{f"GIT_CONFIG_VALUE_{i}": value for i, value in enumerate(config.values())},
    }
