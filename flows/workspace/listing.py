"""List a folder that a stranger's container filled, with sizes and checksums, and whose it is."""

import hashlib
import math
import os
import stat
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Literal

from flows.workspace.tree import Bounds, Descent, Found, Scan, TooMuch, Tree, walk

# What a task leaves has no bounds of its own: a file of terabytes without a byte in it costs
# nothing to make. 20 GiB are half a minute of hashing.
MAX_HASHED_BYTES = 20 * 1024**3
MAX_ENTRIES = 100_000
# As long as the kernel's own; a deep tree of long names would otherwise be listed in gigabytes.
_MAX_PATH_BYTES = 4096
# To look at as many takes a second or so; for folders with more it is not worth it.
_LOOKED_AT = 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """`sha256` is None for all but readable files that were within the limit of hashed bytes."""

    path: str
    kind: Literal["file", "symlink", "other"]
    size_bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies below a folder; of what was found beyond the limit, only the number."""

    entries: tuple[Entry, ...]
    left_out: int = 0


def listing(
    root: Path, max_entries: int = MAX_ENTRIES, max_hashed_bytes: int = MAX_HASHED_BYTES
) -> Listing:
    """Every file, link and special file below `root`, sorted by path within each folder.

    A folder is listed only where its inside cannot be: forbidden to this process, or too deep.
    Folders count for `max_entries`; of one that has more, the system chooses which are listed.
    """
    # The container has no say about what leads to the folder, and every say about what is there.
    tree, bound = Tree(root.parent, (root.name,)), _MostEntries(max_entries)
    entries: list[Entry] = []

    def enters(parts: tuple[str, ...]) -> bool:
        fits = len(os.fsencode("/".join(parts))) < _MAX_PATH_BYTES
        if not fits:
            entries.append(Entry(_as_text(parts), "other", 0, None))
        return fits

    with closing(_Hasher(tree, max_hashed_bytes)) as hasher:
        try:
            for found in walk(tree, enters, bound):
                entries.append(_entry(found, hasher))
        except OSError:
            entries.append(Entry(".", "other", 0, None))
    return Listing(tuple(entries), bound.left_out)


class _MostEntries:
    """Of a folder, what is left of so many names, sorted; counts the others."""

    def __init__(self, most: int) -> None:
        self._left = most
        self.left_out = 0

    def each(self, scan: Scan) -> Sequence["os.DirEntry[str]"]:
        children = sorted(islice(scan, self._left), key=lambda child: child.name)
        self._left -= len(children)
        self.left_out += sum(1 for _ in scan)
        return children


class _Hasher:
    """The sha256 of each file that fits in what earlier ones left of a number of bytes."""

    def __init__(self, tree: Tree, size_bytes: int) -> None:
        self._descent = Descent(tree)
        self._left = size_bytes

    def sha256(self, found: Found) -> str | None:
        """None also for a file that has another size by now, or is forbidden."""
        left = found.size_bytes
        if left > self._left:
            return None
        self._left -= left
        with suppress(OSError), open(self._descent.file(found.parts), "rb") as file:
            if os.fstat(file.fileno()).st_size != left:
                return None
            digest = hashlib.sha256()
            while left > 0 and (chunk := file.read(min(left, 1024**2))):
                digest.update(chunk)
                left -= len(chunk)
            return None if left else digest.hexdigest()
        return None

    def close(self) -> None:
        self._descent.close()


def _entry(found: Found, hasher: _Hasher) -> Entry:
    path = _as_text(found.parts)
    if found.kind == "file":
        return Entry(path, "file", found.size_bytes, hasher.sha256(found))
    return Entry(path, "symlink" if found.kind == "symlink" else "other", 0, None)


def _as_text(parts: tuple[str, ...]) -> str:
    """File names are bytes; those that are no UTF-8 are shown with escapes."""
    return os.fsencode("/".join(parts)).decode("utf-8", "backslashreplace")


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
