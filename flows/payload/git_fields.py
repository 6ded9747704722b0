"""Validators of what git is given: a repository's address and a ref. Each returns the canonical
form, or raises ValueError with the end of the sentence "<JSON path> …".

Refs follow git-check-ref-format(1).
"""

import re
from urllib.parse import unquote, urlsplit

from flows.payload.fields import short
from flows.payload.repository import credential_fault

_SHORT_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*/(?!\.{1,2}$)[A-Za-z0-9_.-]+")
_SCP_LIKE = re.compile(r"\w[\w.-]*@[A-Za-z0-9][A-Za-z0-9.-]*:(?!/?-)[\w./~+%-]+", re.ASCII)
# As git reads what follows the last '@'; Python takes brackets wherever they are.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*)(?::\d*)?")
# A host, with a dot to tell it from an owner, and a path after it.
_HOST_FIRST = re.compile(
    r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::\d+(?=/))?([/:])(?!/)[\w.~-]", re.ASCII
)
# git decodes the whole of an ssh URL before it looks for the host in it.
_SSH_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NOT_IN_URL = re.compile(r"[\s\\\x00-\x1f\x7f]")
_REF = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]+")
_MAX_PATH = 1000
# With a user and a password in their longest spelling.
_MAX_REPOSITORY = 32 * 1024


def git_ref(value: str) -> str:
    value = value.strip()
    # git takes a leading '-' for an option and a leading '+' for "force".
    odd = value.startswith(("-", "+")) or value.endswith(".") or value == "@"
    odd |= any(not part or part[0] == "." or part.endswith(".lock") for part in value.split("/"))
    if odd or len(value) > 250 or ".." in value or "@{" in value or not _REF.fullmatch(value):
        raise ValueError(f"is {short(value)}, not a name that git accepts for a ref")
    return value


def repository(value: str) -> str:
    """A URL git can clone over the network; never a path of the worker's machine."""
    if len(value) > _MAX_REPOSITORY:
        raise ValueError(f"has more than {_MAX_REPOSITORY} characters")
    value = value.strip()
    if _SHORT_REPOSITORY.fullmatch(value) or _SCP_LIKE.fullmatch(value):
        return value
    try:
        url = urlsplit(value)
        named = bool(_HOST.fullmatch(url.netloc.rpartition("@")[2])) and url.port != 0
    except ValueError:
        named = False
    if not named or url.scheme not in {"https", "http", "ssh", "git"} or _NOT_IN_URL.search(value):
        raise ValueError(f"is neither a git URL nor owner/name{_repository_hint(value)}")
    if "?" in value or "#" in value:
        # Not shown: what follows is where hosts take a token.
        raise ValueError(
            "has a '?' or a '#': git clones from no query or fragment; "
            "name a branch, tag or commit in task.git.startingBranch"
        )
    if fault := credential_fault(url):
        raise ValueError(fault)
    if url.scheme in ("ssh", "git") and re.search(r"[\[\]]", unquote(url.path)):
        raise ValueError("has a bracket in its path, which git takes for a host")
    if url.scheme == "ssh" and not _SSH_USER.fullmatch(url.username or "git"):
        raise ValueError("has a user for ssh that is no account's name, such as git")
    if len(url.path) > _MAX_PATH:
        raise ValueError(f"has a path of more than {_MAX_PATH} characters")
    return value


def _repository_hint(value: str) -> str:
    """What to do about a spelling that is near; the value may hold a password, and is not shown."""
    scheme, found, rest = value.partition("://")
    if found and re.search(r"\s", rest):
        return ": write %20 for a blank"
    if found and scheme.startswith("git+"):
        return ": leave 'git+' out"
    near = None if found else _HOST_FIRST.match(value)
    if near is None:
        return ""
    return ": put https:// before it" if near[1] == "/" else ": put git@ before it"
