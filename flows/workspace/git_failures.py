"""What git says when it fails, and what that means: the first row of a table whose pattern matches.

git is run with `LC_ALL=C`. Its own words, and those of curl and ssh below it, are what is matched.
"""

import re
from typing import NamedTuple

from flows.errors import (
    CheckoutTooLarge,
    RefMissing,
    RepositoryMoved,
    RepositoryRejected,
    WorkspaceError,
)
from flows.text import one_line

_MAX_SAID = 300
_CHECK_ALL = (
    "check that the repository and the ref in task.git.startingBranch exist, and that this worker "
    "may read them, with the Repository Credentials block in auth.repoAuthRef if need be"
)
_KNOWN_HOSTS = (
    "known_hosts of the Repository Credentials block in auth.repoAuthRef, or of this worker's user "
    "(docs/repositories.md)"
)


class GitFailure(NamedTuple):
    """One kind of failure: what git says, the error that it is, what to do, whether the next try
    may find it otherwise, and whether git's line may be shown: it has no words of a server's that
    may be no git service at all."""

    said: str
    error: type[RepositoryRejected | WorkspaceError]
    advice: str = ""
    may_pass: bool = False
    is_shown: bool = True


# Everything that no row knows is the network's or the host's fault.
_UNKNOWN = GitFailure(r"^(fatal|error): ", WorkspaceError)
# By their order: of what git says in one breath, the earlier row tells more.
GIT_FAILURES = (
    GitFailure(
        r"exec: .*git: not found", WorkspaceError, "install git for this worker", is_shown=False
    ),
    GitFailure(r"No space left on device|Disk quota exceeded", WorkspaceError, "make room there"),
    GitFailure(
        r"File too large|died of signal 25\b",
        CheckoutTooLarge,
        "it takes more of the disk than a checkout may have on this worker "
        "(MOONMIND_CHECKOUT_MAX_GIB)",
    ),
    GitFailure(
        r"out of memory|malloc failed|mmap failed|cannot create (async )?thread",
        RepositoryRejected,
        "it takes more memory than a checkout may have on this worker (4 GiB)",
    ),
    GitFailure(
        r"returned error: 30\d|unable to update url base from redirection",
        RepositoryMoved,
        "its server sends to another address, and there is no repository",
        is_shown=False,
    ),
    GitFailure(
        r"bad line length character",
        RepositoryRejected,
        "what answers there is no git service",
        is_shown=False,
    ),
    GitFailure(
        r"host key for .* has changed",
        RepositoryRejected,
        f"somebody may be in between, or the server has new keys: compare them with those that its "
        f"operator publishes, and then correct {_KNOWN_HOSTS}",
    ),
    GitFailure(
        r"host key is known for|Host key verification failed",
        RepositoryRejected,
        f"add the keys that the server's operator publishes to {_KNOWN_HOSTS}",
    ),
    GitFailure(
        r"Permission denied \([a-z,-]*publickey",
        RepositoryRejected,
        "the server takes none of the keys that it was shown: name a Repository Credentials block "
        "with an ssh key that may read the repository in auth.repoAuthRef, or give this worker "
        "one (docs/repositories.md)",
    ),
    # As a word of curl's: the payload chose the address, the host and the ref.
    GitFailure(
        r"(unable to access '\S+': |RPC failed; ).*(?<![\w.-])certificates?(?!\w|[.-]\w)",
        WorkspaceError,
        "where its certificate is of an authority of your own, have an operator name that in "
        "MOONMIND_CA_FILE on this worker (docs/repositories.md)",
    ),
    GitFailure(
        r"Could not resolve|Name or service not known|name resolution|unable to look up",
        WorkspaceError,
        "check the host's name, and this worker's DNS",
        may_pass=True,
    ),
    GitFailure(
        r"ssh: connect to host .*: (Connection (refused|timed out)|No route|Network is unreach)",
        WorkspaceError,
        "check that its ssh server is up, and that this worker can reach it",
        may_pass=True,
    ),
    GitFailure(r"couldn't find remote ref|no such remote ref", RefMissing, _CHECK_ALL),
    # The other side was reached, and answered no.
    GitFailure(
        r"not found|does not exist|could not read (Username|Password)|Authentication failed"
        r"|access denied|Permission denied|returned error: 40[0134]"
        r"|Repository not exported|not our ref|unadvertised object|did not match any"
        r"|no such repository|invalid reference|unknown revision|bad object"
        r"|not a valid object name|not a tree object|to a non-commit"
        r"|does not appear to be a git repository|not valid: is this a git repository",
        RepositoryRejected,
        _CHECK_ALL,
    ),
    GitFailure(
        r"returned error: (408|429|5\d\d)",
        WorkspaceError,
        "its server is overloaded or out of order",
        may_pass=True,
    ),
    GitFailure(
        r"timed? ?out|Operation too slow|Connection (refused|reset|closed)|Failed to connect"
        r"|(Couldn't|Could not|unable to) connect|Network is unreachable|No route to host"
        r"|Empty reply|early EOF|unexpected disconnect|hung up unexpectedly|RPC failed"
        r"|transfer closed|Recv failure|SSL_ERROR_SYSCALL|recv error|unexpected eof"
        r"|not closed cleanly|non-properly terminated|Error in the (pull|push) function",
        WorkspaceError,
        may_pass=True,
    ),
    GitFailure(
        r"Unable to negotiate",
        WorkspaceError,
        "its ssh server and this worker's ssh have no such algorithm in common",
    ),
    # Whatever an ssh server said before of a repository that it has not, or does not show.
    GitFailure(r"Could not read from remote repository", RepositoryRejected, _CHECK_ALL),
)


def git_failure(stderr: str, where: str) -> RepositoryRejected | WorkspaceError:
    """The error that git's stderr, masked already, means for the repository shown as `where`."""
    rows = ((row, _line(row.said, stderr)) for row in (*GIT_FAILURES, _UNKNOWN))
    kind, line = next(((row, line) for row, line in rows if line), (_UNKNOWN, "git failed"))
    sentence = "; ".join(filter(None, (line if kind.is_shown else "", kind.advice)))
    if issubclass(kind.error, WorkspaceError):
        return WorkspaceError(f"{where} cannot be fetched: {sentence}", may_pass=kind.may_pass)
    return kind.error(f"{where} cannot be checked out: {sentence}")


def _line(pattern: str, stderr: str) -> str | None:
    """The first line of git's in which it says so, on one line."""
    lines = (line for line in stderr.splitlines() if re.search(pattern, line, re.IGNORECASE))
    found = next(lines, None)
    return one_line(found, _MAX_SAID) if found is not None else None
