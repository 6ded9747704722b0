"""Walk, open and remove what is in a folder that a stranger's container filled, and never leave it.

Every folder on the way is opened by openat with O_NOFOLLOW, by its name in the one before. For
containers that have stopped: nobody else is writing any more.
"""

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from uuid import uuid4

MAX_DEPTH = 1000
# A name takes some 400 bytes while its folder waits to be entered.
_MAX_WAITING = 100_000
# Descriptors of a folder and those above it. A walk that comes back further up goes from the top.
_KEPT_OPEN = 64
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
Kind = Literal["file", "symlink", "device", "fifo", "socket", "folder"]
Scan = Iterator["os.DirEntry[str]"]


@dataclass(frozen=True, slots=True)
class Tree:
    """The folder `inner`, given by its names one after the other, in the trusted folder `root`."""

    root: Path
    inner: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """One thing in a tree, by its names below it, with what lstat says of it.

    A folder is found only where its inside cannot be had: forbidden to this process, too deep, or
    one of too many that wait. `disk_bytes` is less than `size_bytes` for a sparse file;
    `changed_ns` is the ctime, which no program can set.
    """

    parts: tuple[str, ...]
    kind: Kind
    size_bytes: int = 0
    disk_bytes: int = 0
    changed_ns: int = 0


class TooMuch(Exception):
    """A walk came to its bounds; `str()` completes "a folder which …"."""


class Scanned(Protocol):
    """Which names of a folder a walk comes to, and in which order."""

    def each(self, scan: Scan) -> Iterable["os.DirEntry[str]"]:
        """Those of one folder, from its scandir."""


@dataclass(slots=True)
class Bounds:
    """What walks may still cost together: so many names, and time until a `time.monotonic`."""

    looks_left: int
    until: float

    def each(self, scan: Scan) -> Scan:
        """All of them; raises `TooMuch` at the bounds."""
        for child in scan:
            self.looks_left -= 1
            if self.looks_left < 0:
                raise TooMuch("has more files and folders than are looked at")
            if time.monotonic() > self.until:
                raise TooMuch("takes too long to look through")
            yield child


def walk(
    tree: Tree,
    enters: Callable[[tuple[str, ...]], bool] = lambda _: True,
    bounds: Scanned | None = None,
) -> Iterator[Found]:
    """Everything in `tree` but the folders that it `enters`; raises `OSError`, as do `bounds`."""
    each = bounds.each if bounds else iter
    with closing(Descent(tree)) as descent:
        descent.folder(())
        # By the folder above, which is one for all in it: a path is as long as its folder is deep.
        waiting: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((), ())]
        while waiting:
            above, name = waiting.pop()
            parts = above + name
            try:
                with os.scandir(descent.folder(parts)) as scan:
                    for child in each(scan):
                        path = (*parts, child.name)
                        if not child.is_dir(follow_symlinks=False):
                            yield _found(path, child)
                        elif not enters(path):
                            continue
                        elif len(path) < MAX_DEPTH and len(waiting) < _MAX_WAITING:
                            waiting.append((parts, (child.name,)))
                        else:
                            yield Found(path, "folder")
            except OSError:
                yield Found(parts, "folder")


def open_file(tree: Tree, parts: tuple[str, ...], flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file in the tree; see `Descent.file`. Raises `OSError`."""
    with closing(Descent(tree)) as descent:
        return descent.file(parts, flags)


def is_there(tree: Tree) -> bool:
    """Whether the tree's top is a folder, and got to over no link."""
    with suppress(OSError), closing(Descent(tree)) as descent:
        descent.folder(())
        return True
    return False


class Descent:
    """Descriptors of the folder opened last and of some above it: the next one of a walk is mostly
    in one of these, and costs one openat, however deep it is."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._parts: tuple[str, ...] = ()
        # The last is that of `_parts`, and each before it the one above.
        self._open: list[int] = []

    def folder(self, parts: tuple[str, ...]) -> int:
        """A descriptor of the folder, open until the next is asked for. Raises `OSError`."""
        while self._open and parts[: len(self._parts)] != self._parts:
            os.close(self._open.pop())
            self._parts = self._parts[:-1]
        if not self._open:
            self._parts = ()
            self._open.append(self._open_top())
        for name in parts[len(self._parts) :]:
            self._open.append(os.open(name, _FOLDER, dir_fd=self._open[-1]))
            self._parts = (*self._parts, name)
            if len(self._open) > _KEPT_OPEN:
                os.close(self._open.pop(0))
        return self._open[-1]

    def file(self, parts: tuple[str, ...], flags: int = os.O_RDONLY) -> int:
        """A descriptor of a regular file, without waiting; raises `OSError` for anything else."""
        folder, name = self.folder(parts[:-1]), parts[-1]
        _require_regular(os.stat(name, dir_fd=folder, follow_symlinks=False))
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        try:
            _require_regular(os.fstat(descriptor))
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def _open_top(self) -> int:
        folder = os.open(self._tree.root, _FOLDER)
        for name in self._tree.inner:
            try:
                below = os.open(name, _FOLDER, dir_fd=folder)
            finally:
                os.close(folder)
            folder = below
        return folder


def _found(path: tuple[str, ...], child: "os.DirEntry[str]") -> Found:
    info = child.stat(follow_symlinks=False)
    return Found(
        path, _kind_of_mode(info.st_mode), info.st_size, info.st_blocks * 512, info.st_ctime_ns
    )


def _require_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no regular file any more")


def _kind_of_mode(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISLNK(mode):
        return "symlink"
    if stat.S_ISFIFO(mode):
        return "fifo"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def remove_tree(top: Path) -> None:
    """Remove `top` and all in it, as far as this process may; never raises `OSError`.

    Every folder is moved to the top before it is emptied, because a tree may be deeper than paths
    are long and a process has descriptors. No link is followed, even where a container still runs.
    """
    with suppress(OSError):
        _unlock(top)
        with _open_folder(top) as root:
            pending = list(_emptied(root, root))
            while pending:
                name = pending.pop()
                with suppress(OSError), _open_folder(name, root) as folder:
                    pending.extend(_emptied(folder, root))
                with suppress(OSError):
                    os.rmdir(name, dir_fd=root)
        os.rmdir(top)


def _emptied(folder: int, root: int) -> Iterator[str]:
    """Remove what is in `folder` but its folders; the names under which those are now in `root`."""
    with os.scandir(folder) as scan:
        for child in scan:
            with suppress(OSError):
                if child.is_dir(follow_symlinks=False):
                    yield _moved_up(child.name, folder, root)
                else:
                    os.unlink(child.name, dir_fd=folder)


def _moved_up(name: str, folder: int, root: int) -> str:
    with suppress(OSError):
        # Package managers leave folders that even their owner may not write to.
        _unlock(name, folder)
    if folder == root:
        return name
    new_name = uuid4().hex
    os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=root)
    return new_name


def _unlock(path: Path | str, parent: int | None = None) -> None:
    with _open_folder(path, parent, os.O_PATH) as folder:
        # By this way, as a descriptor of what may not be read changes no mode itself.
        os.chmod(f"/proc/self/fd/{folder}", 0o700)


@contextmanager
def _open_folder(
    path: Path | str, parent: int | None = None, how: int = os.O_RDONLY
) -> Iterator[int]:
    descriptor = os.open(path, how | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
