"""What git says when it fails, and what that means: the first row of a table whose pattern matches.

git is run with `LC_ALL=C`. Its own words, and those of curl and ssh below it, are what is matched.
"""

import re
from typing import NamedTuple

from flows.errors import RepositoryRejected, WorkspaceError
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
    """One kind of failure: what git says, the error that it is, what to do, and whether the next
    try may find it otherwise."""

    said: str
    error: type[RepositoryRejected | WorkspaceError]
    advice: str = ""
    may_pass: bool = False


# Everything that no row knows is the network's or the host's fault.
_UNKNOWN = GitFailure(r"^(fatal|error): ", WorkspaceError)
# By their order: of what git says in one breath, the earlier row tells more.
GIT_FAILURES = (
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
    GitFailure(
        r"certificate",
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
    # The other side was reached, and answered no.
    GitFailure(
        r"not found|does not exist|could not read (Username|Password)|Authentication failed"
        r"|access denied|Permission denied|returned error: 40[0134]|couldn't find remote ref"
        r"|Repository not exported|not our ref|unadvertised object|did not match any"
        r"|no such repository|invalid reference|unknown revision|bad object"
        r"|does not appear to be a git repository|not valid: is this a git repository",
        RepositoryRejected,
        _CHECK_ALL,
    ),
)


def git_failure(stderr: str, where: str) -> RepositoryRejected | WorkspaceError:
    """The error that git's stderr, masked already, means for the repository shown as `where`."""
    rows = ((row, _line(row.said, stderr)) for row in (*GIT_FAILURES, _UNKNOWN))
    kind, line = next(((row, line) for row, line in rows if line), (_UNKNOWN, "git failed"))
    sentence = "; ".join(filter(None, (line, kind.advice)))
    if kind.error is RepositoryRejected:
        return RepositoryRejected(f"{where} cannot be checked out: {sentence}")
    return WorkspaceError(f"{where} cannot be fetched: {sentence}", may_pass=kind.may_pass)


def _line(pattern: str, stderr: str) -> str | None:
    """The first line of git's in which it says so, on one line."""
    lines = (line for line in stderr.splitlines() if re.search(pattern, line, re.IGNORECASE))
    found = next(lines, None)
    return one_line(found, _MAX_SAID) if found is not None else None
