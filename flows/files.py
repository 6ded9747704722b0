"""Read and write in a folder that a stranger's container has had to itself.

Whatever it left there (links out of the folder, pipes, devices, names of any kind), nothing here
follows a link or waits on a pipe. For containers that are gone: nobody else is writing any more.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the artifacts folder; `sha256` is None for everything but a readable file."""

    path: str
    kind: Literal["file", "symlink", "other"]
    size_bytes: int
    sha256: str | None


def listing(root: Path) -> Iterator[Entry]:
    """Every file, link and special file below `root`, sorted by path within each folder.

    A folder is listed only where its inside cannot be: forbidden to this process, or so deep
    that its path is longer than the system takes.
    """
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as scan:
                children = sorted(scan, key=lambda child: child.name)
        except OSError:
            yield _unseen(root, folder)
            continue
        for child in children:
            if child.is_dir(follow_symlinks=False):
                pending.append(Path(child.path))
            else:
                yield _entry(root, child)


class HeldFile:
    """A file opened before the container starts and written through that one descriptor.

    What the container does to the path meanwhile cannot send the writes elsewhere, and `settle`
    puts the file back where the container removed or replaced it.
    """

    def __init__(self, path: Path, root: Path) -> None:
        self._path = path
        self._root = root
        _make_way(path, root)
        self._descriptor = self._open()

    def write(self, data: bytes) -> None:
        """Append all of `data`. Raises `OSError`, for instance when the disk is full."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def empty(self) -> int:
        """Drop what is in the file; return how many bytes that were."""
        size = os.fstat(self._descriptor).st_size
        os.ftruncate(self._descriptor, 0)
        return size

    def tail(self, limit: int) -> bytes:
        """The last bytes of the file, at most `limit`."""
        return os.pread(self._descriptor, limit, max(0, self.size_bytes - limit))

    @property
    def size_bytes(self) -> int:
        """The size now, which is not what was written where somebody else wrote as well."""
        return os.fstat(self._descriptor).st_size

    def settle(self) -> None:
        """Put the file back at its path if it is not there; only for a container that is gone."""
        if self._is_in_place():
            return
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        with open(self._descriptor, "rb", closefd=False) as source:
            replace(self._path, self._root, source)
        settled = self._open()
        self.close()
        self._descriptor = settled

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        return os.open(self._path, flags, 0o666)

    def _is_in_place(self) -> bool:
        try:
            there, mine = self._path.lstat(), os.fstat(self._descriptor)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def replace(path: Path, root: Path, source: IO[bytes]) -> None:
    """Write `source` to a new file at `path`, below `root`.

    A file or link in the way is removed; a folder in the way is kept under another name.
    """
    _make_way(path, root)
    _clear(path)
    with path.open("xb") as target:
        shutil.copyfileobj(source, target)


def _make_way(path: Path, root: Path) -> None:
    """Make every folder between `root` and `path` a real one."""
    folder = root
    for part in path.relative_to(root).parts[:-1]:
        folder /= part
        if folder.is_symlink() or not folder.is_dir():
            _clear(folder)
            folder.mkdir()


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # Not removed: it may be deeper than this process can go, and it is the task's own.
        path.rename(path.with_name(f"{path.name}.{uuid4().hex[:8]}"))
    else:
        path.unlink(missing_ok=True)


def _entry(root: Path, child: "os.DirEntry[str]") -> Entry:
    try:
        info = child.stat(follow_symlinks=False)
    except OSError:
        return _unseen(root, Path(child.path))
    path = os.path.relpath(child.path, root)
    if stat.S_ISREG(info.st_mode):
        return Entry(_printable(path), "file", info.st_size, _sha256(child.path))
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
