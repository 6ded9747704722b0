"""Where an HTTP server says that a repository is now: git asked once more, with a trace of curl's.

git follows no redirection where it has credentials, or where a policy names the repository: it may
lead to any host. One that stays with the same server is followed here instead.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urljoin, urlsplit, urlunsplit

from flows.errors import RepositoryMoved
from flows.payload.repository import Remote
from flows.text import one_line
from flows.workspace.git_command import GitCommand

Allows = Callable[[Remote], bool]
_LOCATION = re.compile(r"Recv header: location: (\S+)", re.IGNORECASE)
_ASKED = "/info/refs"


async def followed(git: GitCommand, allows: Allows) -> Remote:
    """git's remote at the address on the same server that this one sends to, with its credentials.

    Raises `RepositoryMoved` with the new address where it is another server's, beyond what the
    credentials are for, or none that `allows` lets pass.
    """
    remote = git.remote
    trace = {"GIT_TRACE_CURL": "1", "GIT_TRACE_CURL_NO_DATA": "1"}
    locations = _LOCATION.findall(await git.said("ls-remote", "origin", "HEAD", trace=trace))
    address = _repository(remote.url, locations[-1]) if locations else None
    if address is None:
        raise _moved(remote, "its server sends elsewhere, to what is no repository")
    there = replace(remote, url=address)
    if _server(address) != _server(remote.url):
        raise _moved(remote, f"it is now at {one_line(address, 200)}: put that into repository")
    if remote.below and not there.is_below(remote.below):
        raise _moved(
            remote,
            f"it is now at {one_line(address, 200)}, and its credentials are for {remote.below} "
            "alone: name a block that is for it in auth.repoAuthRef",
        )
    if not allows(there):
        raise _moved(
            remote,
            f"it is now at {one_line(address, 200)}, which the container policy does not allow "
            "(allowed_repositories)",
        )
    return there


def _repository(url: str, location: str) -> str | None:
    """The clone address, without credentials, for which a redirection of git's request leads."""
    try:
        parts = urlsplit(urljoin(f"{url}{_ASKED}", location))
        host = parts.netloc.rpartition("@")[2]
        is_one = parts.scheme in ("http", "https") and bool(host) and parts.path.endswith(_ASKED)
    except ValueError:
        return None
    path = parts.path.removesuffix(_ASKED)
    return urlunsplit((parts.scheme, host, path, "", "")) if is_one else None


def _server(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def _moved(remote: Remote, sentence: str) -> RepositoryMoved:
    return RepositoryMoved(f"{remote.display} cannot be checked out: {sentence}")
