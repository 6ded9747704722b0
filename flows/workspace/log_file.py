"""A log in a folder that a stranger's container has to itself while the log is written."""

import errno
import hashlib
import os
from pathlib import Path
from typing import IO

from flows.workspace.safe_open import clear, folder_of, nameless_file, new_file, opened_to_append


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
        """How many lines end in the file; reads all that was ever written there."""
        count = position = 0
        while (position := _next_data(self._descriptor, position)) < self.size_bytes:
            chunk = os.pread(self._descriptor, 2**20, position)
            count += chunk.count(b"\n")
            position += len(chunk)
        return count

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


def _next_data(descriptor: int, position: int) -> int:
    """Past what was never written: a hole may be of terabytes."""
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return os.fstat(descriptor).st_size


def _copy(source: IO[bytes], target: IO[bytes], size_bytes: int) -> None:
    """Copy the first bytes; what a container put behind them may have no end."""
    while size_bytes > 0 and (chunk := source.read(min(size_bytes, 1024**2))):
        size_bytes -= target.write(chunk)
