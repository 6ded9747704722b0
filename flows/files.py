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
from typing import IO, Literal

from flows.inside import beside, clear, folder_of, nameless_file, new_file, opened_to_append

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
    entries, pending, left_out = [], [root], 0
    while pending:
        folder = pending.pop()
        try:
            children, more = _children(folder, max_entries)
        except OSError:
            entries.append(_unseen(root, folder))
            continue
        max_entries -= len(children)
        left_out += more
        for child in children:
            if child.is_dir(follow_symlinks=False):
                pending.append(Path(child.path))
            else:
                entries.append(_entry(root, child, budget))
    return Listing(tuple(entries), left_out)


class HeldFile:
    """A file opened before the container starts and written through that one descriptor.

    What the container does to the path meanwhile cannot send the writes elsewhere, `settle` puts
    the file back where the container removed or replaced it, and `is_as_written` tells whether
    the container wrote in it as well. Where a process that comes later finds no file at the path,
    or none that it may write, it writes to one without a name until it is settled.
    """

    def __init__(self, path: Path, root: Path) -> None:
        self._path = path
        self._root = root
        self._descriptor = self._open()
        self._begin = self._end = self.size_bytes
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Append all of `data`. Raises `OSError`, for instance when the disk is full."""
        rest = memoryview(data)
        while rest:
            count = os.write(self._descriptor, rest)
            self._sha256.update(rest[:count])
            self._end += count
            rest = rest[count:]

    def empty(self) -> int:
        """Drop what is in the file; return how many bytes that were."""
        size = os.fstat(self._descriptor).st_size
        os.ftruncate(self._descriptor, 0)
        self._begin = self._end = 0
        return size

    def lines(self) -> int:
        """How many lines end in the file; reads all of it."""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(2**20), b""))

    def tail(self, limit: int) -> bytes:
        """The last bytes of the file, at most `limit`."""
        return os.pread(self._descriptor, limit, max(0, self.size_bytes - limit))

    @property
    def size_bytes(self) -> int:
        """The size now, which is not what was written where somebody else wrote as well."""
        return os.fstat(self._descriptor).st_size

    def settle(self) -> None:
        """Put the file back at its path if it is not there; only for a container that is gone.

        Raises `OSError`; on a full disk the file is there, as far as it fits.
        """
        name = self._path.name
        with folder_of(self._path, self._root, clearing=True) as folder:
            if self._is_at(name, folder):
                return
            clear(name, folder)
            settled = new_file(name, folder)
        try:
            self._copy_to(settled)
        except BaseException:
            os.close(settled)
            raise
        self.close()
        self._descriptor = settled

    def _copy_to(self, settled: int) -> None:
        with (
            open(self._descriptor, "rb", closefd=False) as source,
            open(settled, "wb", closefd=False) as copy,
        ):
            source.seek(0)
            _copy(source, copy, self._end)

    def is_as_written(self) -> bool:
        """Whether the file has all that was written here and nothing else; reads all of that.

        What it had when it was opened counts by its size only.
        """
        # No time stamp would do instead: those of a file are set by whoever owns it, and stand
        # still for some milliseconds between two writes.
        if self.size_bytes != self._end:
            return False
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(self._begin)
            return hashlib.file_digest(file, "sha256").digest() == self._sha256.digest()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)

    def _open(self) -> int:
        try:
            with folder_of(self._path, self._root) as folder:
                return opened_to_append(self._path.name, folder)
        except OSError:
            # Nothing is cleared away: a container that somebody adopts still lives there.
            return nameless_file(self._root.parent)

    def _is_at(self, name: str, folder: int) -> bool:
        try:
            there = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False
        mine = os.fstat(self._descriptor)
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


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


def _copy(source: IO[bytes], target: IO[bytes], size_bytes: int) -> None:
    """Copy the first bytes; what a container put behind them may have no end."""
    while size_bytes > 0 and (chunk := source.read(min(size_bytes, 1024**2))):
        size_bytes -= target.write(chunk)


def _children(folder: Path, limit: int) -> tuple[list["os.DirEntry[str]"], int]:
    """At most `limit` of what is in `folder`, by name, and how many more there are."""
    with os.scandir(folder) as scan:
        children = sorted(islice(scan, limit), key=lambda child: child.name)
        return children, sum(1 for _ in scan)


def _entry(root: Path, child: "os.DirEntry[str]", budget: _HashBudget) -> Entry:
    try:
        info = child.stat(follow_symlinks=False)
    except OSError:
        return _unseen(root, Path(child.path))
    path = os.path.relpath(child.path, root)
    if stat.S_ISREG(info.st_mode):
        sha256 = _sha256(child.path) if budget.covers(info.st_size) else None
        return Entry(_printable(path), "file", info.st_size, sha256)
    kind: Literal["symlink", "other"] = "symlink" if stat.S_ISLNK(info.st_mode) else "other"
    return Entry(_printable(path), kind, 0, None)


def _unseen(root: Path, path: Path) -> Entry:
    return Entry(_printable(os.path.relpath(path, root)), "other", 0, None)


def _sha256(path: str) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        # A worker that is not root may not read what the container kept to itself.
        return None
    with open(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _printable(path: str) -> str:
    """File names are bytes; those that are no UTF-8 are shown with escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
