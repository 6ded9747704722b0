"""A log that no container can reach while it is written: appended to in `.runs`, renamed into the
artifacts once the container has stopped."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from flows.workspace.safe_open import move_into
from flows.workspace.tree import Tree, open_file

_APPEND = os.O_RDWR | os.O_APPEND


class LogFile:
    """An append-only file at `live`, until it is moved to `path` below the job's folder `root`.

    One that is at `path` already, moved or begun by an earlier version, is appended to there.
    """

    def __init__(self, live: Path, path: Path, root: Path) -> None:
        self._live = live
        self._path = path
        self._root = root
        self._descriptor = self._open_where_it_is()

    def write(self, data: bytes) -> None:
        """Append all of `data`; raises `OSError`."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def start_over(self) -> int:
        """Go on with an empty file at `live`; return how many bytes there were before."""
        size_bytes = self.size_bytes
        self.close()
        self._descriptor = self._open_live(os.O_TRUNC)
        return size_bytes

    def lines(self) -> int:
        """How many lines end in the file; reads all that was ever written there."""
        count = position = 0
        while (position := self._next_data(position)) < self.size_bytes:
            chunk = os.pread(self._descriptor, 2**20, position)
            count += chunk.count(b"\n")
            position += len(chunk)
        return count

    def tail(self, limit: int) -> bytes:
        """The last bytes of the file, at most `limit`."""
        return os.pread(self._descriptor, limit, max(0, self.size_bytes - limit))

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._descriptor).st_size

    def move_to_artifacts(self) -> None:
        """Rename the file of a stopped container to `path`, in place of what that put there; raises
        `OSError`, with the file still at `live`. What is written after that goes there as well."""
        if move_log(self._live, self._path, self._root) and not os.fstat(self._descriptor).st_nlink:
            self._follow_copy()

    def _follow_copy(self) -> None:
        """Append to the copy on another file system, where that can be opened."""
        with suppress(OSError):
            copy = open_file(Tree(self._root), self._path.relative_to(self._root).parts, _APPEND)
            os.dup2(copy, self._descriptor, inheritable=False)
            os.close(copy)

    def close(self) -> None:
        os.close(self._descriptor)

    def _open_where_it_is(self) -> int:
        if not self._live.exists():
            parts = self._path.relative_to(self._root).parts
            with suppress(OSError):
                return open_file(Tree(self._root), parts, _APPEND)
        return self._open_live()

    def _open_live(self, flags: int = 0) -> int:
        self._live.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(self._live, _APPEND | os.O_CREAT | flags, 0o666)

    def _next_data(self, position: int) -> int:
        """Past what was never written: a container of an earlier version's can have made a hole
        of terabytes."""
        try:
            return os.lseek(self._descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return self.size_bytes


def move_log(live: Path, path: Path, root: Path) -> bool:
    """Rename the log at `live`, if there is one, to `path` below `root`; see `LogFile`."""
    if not live.exists():
        return False
    move_into(live, path, root)
    return True
