"""Open and replace files in a folder that a stranger's container has to itself, or has had.

By openat with O_NOFOLLOW, a folder at a time: no link on the way is followed, not even one that
was put there a moment ago. `LogFile` is a log that no container can reach while it is written.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from flows.workspace.tree import Tree, open_file

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_APPEND = os.O_RDWR | os.O_APPEND


@contextmanager
def folder_of(path: Path, root: Path, *, clearing: bool = False) -> Iterator[int]:
    """A descriptor of the folder that `path`, below `root`, is in, which is made; raises `OSError`.

    With `clearing`, what is no folder on the way, or none to write in, makes room: see `clear`.
    """
    folder = os.open(root, _FOLDER)
    try:
        for part in path.relative_to(root).parts[:-1]:
            below = (_usable if clearing else _entered)(part, folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


def clear(name: str, folder: int) -> None:
    """Unlink what is at `name`; a folder is renamed, for it may be deeper than one can remove."""
    if is_folder(name, folder):
        move_aside(name, folder)
    else:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def move_aside(name: str, folder: int) -> None:
    """Rename what is at `name`, if anything is, to a name like it that nothing has."""
    with suppress(FileNotFoundError):
        os.rename(name, free_name(name), src_dir_fd=folder, dst_dir_fd=folder)


def free_name(name: str) -> str:
    """A name like `name`, which may be as long as names can be, that nothing has."""
    folder, last = os.path.split(name)
    return os.path.join(folder, f"{last[:60]}.{uuid4().hex[:8]}")


def is_folder(path: Path | str, folder: int | None = None) -> bool:
    """Whether `path` is a folder itself, by lstat, not a link to one."""
    try:
        return stat.S_ISDIR(os.stat(path, dir_fd=folder, follow_symlinks=False).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


@contextmanager
def replacing(name: str, folder: int | None = None, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A new file that is renamed to `name` when the block ends well; if `durable`, after an fsync
    of it and before one of its folder, so that it is there even after a power cut.

    Raises `OSError`; what was at `name` is then still there, and nothing else.
    """
    draft = free_name(name)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(draft, flags, 0o666, dir_fd=folder)
    try:
        with open(descriptor, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=folder)
        raise
    if durable:
        sync_folder(os.path.dirname(name) or ".", folder)


def sync_folder(name: str | Path, folder: int | None = None) -> None:
    """Write the names in a folder to its disk (fsync). Raises `OSError`."""
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, root: Path, data: bytes) -> None:
    """Write `data` to a new file and rename it to `path`, below `root`: all of it, or none.

    A folder in the way is kept under another name. Raises `OSError`.
    """
    with folder_of(path, root, clearing=True) as folder:
        if is_folder(path.name, folder):
            move_aside(path.name, folder)
        with replacing(path.name, folder) as file:
            file.write(data)


def move_into(source: Path, path: Path, root: Path) -> None:
    """Rename a file of the worker's own to `path`, below `root`, or copy it across file systems.

    A folder in the way is kept under another name. Raises `OSError`; `source` is then still there.
    """
    with folder_of(path, root, clearing=True) as folder:
        clear(path.name, folder)
        try:
            os.rename(source, path.name, dst_dir_fd=folder)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with source.open("rb") as file:
                _copy_with_times(file, path.name, folder)
            source.unlink()


def link_or_copy(source: BinaryIO, path: Path, root: Path) -> None:
    """Hard-link an open file to `path`, below `root`, or copy it; raises `OSError`.

    What is at `path` is kept under another name, unless it is that file or its copy.
    """
    with folder_of(path, root, clearing=True) as folder:
        if _is_linked_or_copied(source, path.name, folder):
            return
        move_aside(path.name, folder)
        try:
            # What was opened, whatever has its name by now.
            os.link(f"/proc/self/fd/{source.fileno()}", path.name, dst_dir_fd=folder)
        except OSError:
            # Another file system, or one that gives no file two names.
            _copy_with_times(source, path.name, folder)


def _is_linked_or_copied(source: BinaryIO, name: str, folder: int) -> bool:
    """A copy has the time of its source to the nanosecond."""
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    wanted = os.fstat(source.fileno())
    return os.path.samestat(there, wanted) or _type_size_mtime(there) == _type_size_mtime(wanted)


def _type_size_mtime(found: os.stat_result) -> tuple[int, int, int]:
    return stat.S_IFMT(found.st_mode), found.st_size, found.st_mtime_ns


def _copy_with_times(source: BinaryIO, name: str, folder: int) -> None:
    with replacing(name, folder) as copy:
        source.seek(0)
        shutil.copyfileobj(source, copy, 1024**2)
        copy.flush()
        found = os.fstat(source.fileno())
        os.utime(copy.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))


def _entered(name: str, parent: int) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)
    return os.open(name, _FOLDER, dir_fd=parent)


def _usable(name: str, parent: int) -> int:
    with suppress(NotADirectoryError):
        folder = _entered(name, parent)
        if _may_write_in(folder):
            return folder
        os.close(folder)
    clear(name, parent)
    return _entered(name, parent)


def _may_write_in(folder: int) -> bool:
    with suppress(PermissionError):
        if os.fstat(folder).st_mode & 0o700 != 0o700:
            # By this way, as a descriptor for the way alone changes no mode itself.
            os.chmod(f"/proc/self/fd/{folder}", 0o777)
    return os.access(".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=True)


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
