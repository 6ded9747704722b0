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


class GitFailure(NamedTuple):
    """One kind of failure: what git says, the error that it is, what to do, and whether the next
    try may find it otherwise."""

    said: str
    error: type[RepositoryRejected | WorkspaceError]
    advice: str = ""
    may_pass: bool = False


# Everything that no row knows is the network's or the host's fault.
_UNKNOWN = GitFailure("", WorkspaceError)
# By their order: of what git says in one breath, the earlier row tells more.
GIT_FAILURES = (
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
    kind = next((row for row in GIT_FAILURES if re.search(row.said, stderr, re.I)), _UNKNOWN)
    sentence = "; ".join(filter(None, (_words(stderr), kind.advice)))
    if kind.error is RepositoryRejected:
        return RepositoryRejected(f"{where} cannot be checked out: {sentence}")
    return WorkspaceError(f"{where} cannot be fetched: {sentence}", may_pass=kind.may_pass)


def _words(stderr: str) -> str:
    """git's own line on what is wrong, the first one that there is."""
    lines = (line for line in stderr.splitlines() if "fatal" in line or "rror" in line)
    return one_line(next(lines, "git failed"), _MAX_SAID)
