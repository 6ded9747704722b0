"""With which keys and known hosts ssh is run for git, and which certificates git believes.

The key of a block is in a file in memory for as long as git runs. What an operator says about this
host is in files of theirs. Where neither says anything, ssh does as for any user: `~/.ssh`.
"""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.memory_file import memory_file
from flows.payload.repository import Remote

_SECONDS = 60


@dataclass(frozen=True, slots=True)
class HostAccess:
    """What this worker's `MOONMIND_*` say about reading repositories."""

    ssh_key: Path | None = None
    known_hosts: Path | None = None
    certificates: str | None = None


@dataclass(frozen=True, slots=True)
class GitAccess:
    """Options of ssh, and the path of a bundle of certificates; `is_decided` where no
    `GIT_SSH_COMMAND` of the worker's environment counts any more."""

    ssh_options: tuple[str, ...] = ()
    is_decided: bool = False
    certificates: str | None = None

    def ssh_command(self, callers: Mapping[str, str]) -> dict[str, str]:
        """The variables of git that say how ssh is run."""
        words = ("ssh", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes", *self.ssh_options)
        command = shlex.join((*words, f"-oConnectTimeout={_SECONDS}"))
        if self.is_decided:
            return {"GIT_SSH_COMMAND": command, "GIT_SSH_VARIANT": "ssh"}
        theirs = {"GIT_SSH", "GIT_SSH_COMMAND"} & callers.keys()
        return {} if theirs else {"GIT_SSH_COMMAND": command}


@contextmanager
def git_access(remote: Remote, host: HostAccess) -> Iterator[GitAccess]:
    """How git gets at `remote` from this host, until the end of the block."""
    with ExitStack() as files:
        options: list[str] = []
        if remote.ssh_key:
            # No key but this one, of no agent and no configuration of the worker's user.
            key = files.enter_context(memory_file(remote.ssh_key))
            options += ["-Fnone", "-oIdentitiesOnly=yes", "-oIdentityAgent=none", f"-i{key}"]
        elif host.ssh_key:
            options += ["-oIdentitiesOnly=yes", f"-i{host.ssh_key}"]
        if remote.known_hosts:
            known = files.enter_context(memory_file(remote.known_hosts))
            options += _only_known(known)
        elif host.known_hosts:
            options += _only_known(str(host.known_hosts))
        yield GitAccess(tuple(options), bool(options), host.certificates)


def _only_known(path: str) -> list[str]:
    files = (f"-oUserKnownHostsFile={path}", "-oGlobalKnownHostsFile=/dev/null")
    return [*files, "-oUpdateHostKeys=no"]
