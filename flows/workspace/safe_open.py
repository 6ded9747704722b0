"""Reach into a folder that a stranger's container has to itself, or has had.

By descriptors, a folder at a time: no link on the way is followed, not even one that was put there
a moment ago.
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

_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
APPEND = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW


@contextmanager
def folder_of(path: Path, root: Path, *, clearing: bool = False) -> Iterator[int]:
    """A descriptor of the folder that `path`, below `root`, is in; raises `OSError`.

    Folders that are missing on the way are made. With `clearing`, what is no folder there, or none
    that this process may write in, makes room for one: see `clear`.
    """
    folder = os.open(root, _WAY)
    try:
        for part in path.relative_to(root).parts[:-1]:
            below = (_usable if clearing else _entered)(part, folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


def clear(name: str, folder: int) -> None:
    """Remove what is at `name`; a folder is kept under another name."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            # Not removed: it may be deeper than this process can go.
            os.rename(name, beside(name), src_dir_fd=folder, dst_dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)


def beside(name: str) -> str:
    """A name like `name` that nothing has."""
    return f"{name}.{uuid4().hex[:8]}"


def opened_to_append(name: str, folder: int) -> int:
    """A descriptor of the existing file `name`; raises `OSError` for a link, a pipe, a device or a
    folder, and waits for none of them."""
    # A device may do something when it is opened.
    _require_file(os.stat(name, dir_fd=folder, follow_symlinks=False))
    descriptor = os.open(name, APPEND | os.O_NONBLOCK, dir_fd=folder)
    try:
        _require_file(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def new_file(name: str, folder: int) -> int:
    """A descriptor of a new file; raises `FileExistsError` where there is something."""
    return os.open(name, APPEND | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)


def nameless_file(folder: Path) -> int:
    """A descriptor of a file that is in `folder`, whose disk it is on, under no name."""
    path = folder / f".{uuid4().hex}"
    descriptor = os.open(path, APPEND | os.O_CREAT | os.O_EXCL, 0o600)
    path.unlink()
    return descriptor


def opened_at(path: str, flags: int) -> int:
    """A descriptor of what is at the absolute `path` and was got to over no link.

    Raises `OSError`. A folder on the way may be exchanged for a link at any time; where the kernel
    came out afterwards stands.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW)
    try:
        if os.readlink(f"/proc/self/fd/{descriptor}") != path:
            raise OSError(errno.ELOOP, "a link leads there", path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _entered(name: str, parent: int) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)
    return os.open(name, _WAY, dir_fd=parent)


def _usable(name: str, parent: int) -> int:
    with suppress(NotADirectoryError):
        folder = _entered(name, parent)
        if _is_open_to_us(folder):
            return folder
        os.close(folder)
    clear(name, parent)
    return _entered(name, parent)


def _is_open_to_us(folder: int) -> bool:
    with suppress(PermissionError):
        if os.fstat(folder).st_mode & 0o700 != 0o700:
            # By this way, as a descriptor for the way alone changes no mode itself.
            os.chmod(f"/proc/self/fd/{folder}", 0o777)
    return os.access(".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=True)


def _require_file(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no file")


def move_into(source: Path, name: str, folder: int) -> None:
    """Rename a file of the worker's own to `name` in `folder`, or copy it across file systems.

    What is at `name` is replaced; a folder is kept under another name. Raises `OSError`; `source`
    is then still there.
    """
    clear(name, folder)
    try:
        os.rename(source, name, dst_dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with source.open("rb") as file:
            _copy(file, name, folder)
        source.unlink()


def keep(source: BinaryIO, path: Path, root: Path) -> None:
    """Have the open file `source` at `path`, below `root`, too. Raises `OSError`."""
    with folder_of(path, root, clearing=True) as folder:
        if _is_there(source, path.name, folder):
            return
        with suppress(FileNotFoundError):
            os.rename(path.name, beside(path.name), src_dir_fd=folder, dst_dir_fd=folder)
        try:
            # What was opened, whatever has its name by now.
            os.link(f"/proc/self/fd/{source.fileno()}", path.name, dst_dir_fd=folder)
        except OSError:
            # Another file system, or one that gives no file two names.
            _copy(source, path.name, folder)


def _is_there(source: BinaryIO, name: str, folder: int) -> bool:
    """Whether an earlier process did it: a copy has the time of its source to the nanosecond."""
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    wanted = os.fstat(source.fileno())
    return os.path.samestat(there, wanted) or _marks(there) == _marks(wanted)


def _marks(found: os.stat_result) -> tuple[int, int, int]:
    return stat.S_IFMT(found.st_mode), found.st_size, found.st_mtime_ns


def _copy(source: BinaryIO, name: str, folder: int) -> None:
    draft = beside(f".{name[:100]}")
    try:
        with open(new_file(draft, folder), "wb") as file:
            source.seek(0)
            shutil.copyfileobj(source, file, 1024**2)
            file.flush()
            found = os.fstat(source.fileno())
            os.utime(file.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
        os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=folder)
        raise
