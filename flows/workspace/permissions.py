"""Whether all files in a job's folder belong to the worker, by lstat of each."""

import math
import os
import stat
from enum import Enum
from pathlib import Path

from flows.workspace.tree import Bounds, Scan, TooMuch, Tree, walk

# To look at as many takes a second or so; for folders with more it is not worth it.
_LOOKED_AT = 100_000


class Ownership(Enum):
    """Whose the files in a folder are."""

    OURS = "everything there is the worker's, and nothing shut to it"
    FOREIGN = "something there is not"
    UNSEEN = "there is more than was looked at"


def ownership(folder: Path, user: int, limit: int = _LOOKED_AT) -> Ownership:
    """Whether all in `folder` is `user`'s and open to it, links and special files aside: nobody
    reads them, and whoever has their folder can remove them."""
    if not os.path.lexists(folder):
        return Ownership.OURS
    if not _is_ours(os.lstat(folder), user):
        return Ownership.FOREIGN
    try:
        found = walk(Tree(folder), bounds=_OwnedBy(user, limit))
        # One that the walk could not enter: deeper than it goes, say.
        return Ownership.UNSEEN if any(each.kind == "folder" for each in found) else Ownership.OURS
    except _ForeignError:
        return Ownership.FOREIGN
    except (TooMuch, OSError):
        return Ownership.UNSEEN


class _ForeignError(Exception):
    """Something is not the user's."""


class _OwnedBy:
    """All names of a folder, as long as they are the user's and within the limit."""

    def __init__(self, user: int, limit: int) -> None:
        self._user = user
        self._bounds = Bounds(limit, math.inf)

    def each(self, scan: Scan) -> Scan:
        for child in self._bounds.each(scan):
            if not _is_ours(child.stat(follow_symlinks=False), self._user):
                raise _ForeignError
            yield child


def _is_ours(found: os.stat_result, user: int) -> bool:
    mode = found.st_mode
    if stat.S_ISDIR(mode):
        return found.st_uid == user and mode & 0o700 == 0o700
    if stat.S_ISREG(mode):
        return found.st_uid == user and mode & 0o400 != 0 and not mode & 0o6000
    return True
