"""Remove a folder that a stranger's container filled, as deep and as locked as it liked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


def remove_tree(top: Path) -> None:
    """Remove `top` and all in it, as far as this process may; never raises `OSError`.

    Every folder is moved to the top before it is emptied, because a tree may be deeper than paths
    are long, than Python recurses and than a process has descriptors. No link is followed, even
    where a container still lives in the tree and exchanges things meanwhile.
    """
    with suppress(OSError):
        _unlock(top)
        with _opened(top) as root:
            pending = list(_emptied(root, root))
            while pending:
                name = pending.pop()
                with suppress(OSError), _opened(name, root) as folder:
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
    with _opened(path, parent, os.O_PATH) as folder:
        # By this way, as a descriptor of what may not be read changes no mode itself.
        os.chmod(f"/proc/self/fd/{folder}", 0o700)


@contextmanager
def _opened(path: Path | str, parent: int | None = None, how: int = os.O_RDONLY) -> Iterator[int]:
    descriptor = os.open(path, how | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
