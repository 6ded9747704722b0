"""Walk and open a folder that a stranger's container filled, without ever leaving it.

Every folder on the way is opened by its name in the one before, and none through a link. For
containers that are gone: nobody else is writing any more.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Each folder is opened from the top, which makes a chain of folders cost the square of its length.
MAX_DEPTH = 1000

Kind = Literal["file", "symlink", "device", "fifo", "socket", "folder"]


@dataclass(frozen=True, slots=True)
class Tree:
    """The folder `inner`, given by its names one after the other, in the trusted folder `root`."""

    root: Path
    inner: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """One thing in a tree, by its names below it.

    A folder is found only where its inside cannot be had: forbidden to this process, or too deep.
    `disk_bytes` is what it occupies, which for a sparse file is less than `size_bytes`.
    """

    parts: tuple[str, ...]
    kind: Kind
    size_bytes: int = 0
    disk_bytes: int = 0


def walk(tree: Tree, enters: Callable[[tuple[str, ...]], bool] | None = None) -> Iterator[Found]:
    """Everything in `tree` but the folders, a folder after the other.

    Where `enters` is given, only in folders of which it says so. Raises `OSError` where there is
    no such tree.
    """
    with _folder(tree, ()):
        pending: list[tuple[str, ...]] = [()]
    while pending:
        parts = pending.pop()
        try:
            with _folder(tree, parts) as descriptor, os.scandir(descriptor) as scan:
                for child in scan:
                    path = (*parts, child.name)
                    if not child.is_dir(follow_symlinks=False):
                        yield _found(path, child)
                    elif enters is not None and not enters(path):
                        continue
                    elif len(path) < MAX_DEPTH:
                        pending.append(path)
                    else:
                        yield Found(path, "folder")
        except OSError:
            yield Found(parts, "folder")


def open_file(tree: Tree, parts: tuple[str, ...]) -> int:
    """A descriptor of a regular file in the tree, for reading.

    Raises `OSError`, also where it is something else by now.
    """
    with _folder(tree, parts[:-1]) as folder:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(parts[-1], flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is no regular file any more")
    return descriptor


def is_there(tree: Tree) -> bool:
    """Whether the tree's top is a folder, and got to over no link."""
    try:
        with _folder(tree, ()):
            return True
    except OSError:
        return False


@contextmanager
def _folder(tree: Tree, parts: tuple[str, ...]) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(tree.root, flags)
    try:
        for name in (*tree.inner, *parts):
            inside = os.open(name, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inside
        yield descriptor
    finally:
        os.close(descriptor)


def _found(path: tuple[str, ...], child: "os.DirEntry[str]") -> Found:
    info = child.stat(follow_symlinks=False)
    return Found(path, _kind(info.st_mode), info.st_size, info.st_blocks * 512)


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISLNK(mode):
        return "symlink"
    if stat.S_ISFIFO(mode):
        return "fifo"
    return "socket" if stat.S_ISSOCK(mode) else "device"
