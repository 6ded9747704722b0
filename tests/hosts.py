"""What only root can give a test: small disks, and the eyes of somebody who is not root."""

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import IN_CI

NOBODY = 65534


def need_root(why: str) -> None:
    """Skip the test where this process is not root; in CI it is."""
    if os.geteuid() != 0:
        assert not IN_CI, f"CI runs as root: {why}"
        pytest.skip(f"only root {why}")


@contextmanager
def disk(beside: Path, size: str) -> Iterator[Path]:
    """A file system of `size`, as tmpfs takes it."""
    need_root("mounts a small file system")
    folder = beside / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> None:
    """Use every byte that the file system of `folder` has left."""
    with (folder / "filler").open("ab", 0) as file:
        for size in (64 * 1024, 1024, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)


def fill_as_others(folder: Path) -> None:
    """Leave there what a container of user 1234 may, with a link to `outside` beside the job."""
    (folder / "shut" / "deeper").mkdir(parents=True)
    for name, mode in (("private", 0o600), ("none", 0), ("program", 0o6755), ("shut/file", 0o640)):
        path = folder / name
        path.write_text("text")
        os.chown(path, 1234, 1234)
        path.chmod(mode)
    os.mkfifo(folder / "pipe")
    os.mknod(folder / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    (folder / "link").symlink_to(folder.parent.parent / "outside")
    (folder / "shut").chmod(0)


@contextmanager
def nobodys_folder() -> Iterator[Path]:
    """A folder that belongs to nobody, and that nobody can get to."""
    need_root("becomes somebody else")
    # pytest's own folders are closed to everybody else.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


@contextmanager
def as_nobody() -> Iterator[None]:
    """What is done inside is done with nobody's rights."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def deep(folder: Path, name: str, levels: int) -> None:
    """A tree that is deeper than paths are long, with a file at its bottom."""
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
