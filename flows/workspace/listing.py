"""Read and write in a folder that a stranger's container has had to itself.

Whatever it left there (links out of the folder, pipes, devices, names of any kind), nothing here
follows a link or waits on a pipe. For containers that are gone: nobody else is writing any more.
"""

import hashlib
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from flows.workspace.safe_open import beside, clear, folder_of, new_file, opened_at

# What a task leaves has no bounds of its own: a file of terabytes without a byte in it costs
# nothing to make. 20 GiB are half a minute of hashing.
MAX_HASHED_BYTES = 20 * 1024**3
MAX_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the artifacts folder.

    `sha256` is None for everything but a readable file that was within the limit of hashed bytes.
    """

    path: str
    kind: Literal["file", "symlink", "other"]
    size_bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies below a folder; of what was found beyond the limit, only the number."""

    entries: tuple[Entry, ...]
    left_out: int = 0


class _HashBudget:
    """Which files are still hashed: those that fit in what earlier ones left of the bytes."""

    def __init__(self, size_bytes: int) -> None:
        self._left = size_bytes

    def covers(self, size_bytes: int) -> bool:
        if size_bytes > self._left:
            return False
        self._left -= size_bytes
        return True


def listing(
    root: Path, max_entries: int = MAX_ENTRIES, max_hashed_bytes: int = MAX_HASHED_BYTES
) -> Listing:
    """Every file, link and special file below `root`, sorted by path within each folder.

    A folder is listed only where its inside cannot be: forbidden to this process, or so deep
    that its path is longer than the system takes. Folders count for `max_entries`; of one that
    has more than what is left of it, the system chooses which are listed.
    """
    budget = _HashBudget(max_hashed_bytes)
    # The container has no say about what leads to the folder, and every say about what is there.
    top = os.path.join(os.path.realpath(root.parent), root.name)
    entries, pending, left_out = [], [top], 0
    while pending:
        folder = pending.pop()
        try:
            children, more = _children(folder, max_entries)
        except OSError:
            entries.append(Entry(_shown(top, folder), "other", 0, None))
            continue
        max_entries -= len(children)
        left_out += more
        for name, found in children:
            path = os.path.join(folder, name)
            if found is not None and stat.S_ISDIR(found.st_mode):
                pending.append(path)
            else:
                entries.append(_entry(top, path, found, budget))
    return Listing(tuple(entries), left_out)


def write_whole(path: Path, root: Path, data: bytes) -> None:
    """Write `data` to a new file at `path`, below `root`: all of it, or none.

    A file or link in the way is replaced; a folder in the way is kept under another name. Raises
    `OSError`; what was at `path` is then still there.
    """
    with folder_of(path, root, clearing=True) as folder:
        if _is_folder_at(path.name, folder):
            clear(path.name, folder)
        draft = beside(f".{path.name}")
        try:
            with open(new_file(draft, folder), "wb") as file:
                file.write(data)
            os.replace(draft, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=folder)
            raise


def _is_folder_at(name: str, folder: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder itself, not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _children(folder: str, limit: int) -> tuple[list[tuple[str, os.stat_result | None]], int]:
    """At most `limit` of what is in `folder`, by name, and how many more there are."""
    descriptor = opened_at(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(descriptor) as scan:
            children = sorted(islice(scan, limit), key=lambda child: child.name)
            more = sum(1 for _ in scan)
            return [(child.name, _stat(child)) for child in children], more
    finally:
        os.close(descriptor)


def _stat(child: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return child.stat(follow_symlinks=False)
    except OSError:
        return None


def _entry(top: str, path: str, found: os.stat_result | None, budget: _HashBudget) -> Entry:
    shown = _shown(top, path)
    if found is not None and stat.S_ISREG(found.st_mode):
        sha256 = _sha256(path, found.st_size) if budget.covers(found.st_size) else None
        return Entry(shown, "file", found.st_size, sha256)
    is_link = found is not None and stat.S_ISLNK(found.st_mode)
    return Entry(shown, "symlink" if is_link else "other", 0, None)


def _sha256(path: str, size_bytes: int) -> str | None:
    """The digest of a file of that size; None for what is no such file any more, or forbidden."""
    try:
        descriptor = opened_at(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    digest = hashlib.sha256()
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size_bytes:
            return None
        while size_bytes > 0 and (chunk := file.read(min(size_bytes, 1024**2))):
            digest.update(chunk)
            size_bytes -= len(chunk)
    return None if size_bytes else digest.hexdigest()


def _shown(top: str, path: str) -> str:
    return _printable(os.path.relpath(path, top))


def _printable(path: str) -> str:
    """File names are bytes; those that are no UTF-8 are shown with escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
