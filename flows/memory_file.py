"""`memfd_create`: files on no disk, which other programs of this user open by a path in /proc, and
which are gone with this process, however it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def memory_file(content: str) -> Iterator[str]:
    """The path of a file that has `content` until the end of the block."""
    descriptor = memory_descriptor(content)
    try:
        yield path_of(descriptor)
    finally:
        os.close(descriptor)


def memory_descriptor(content: str) -> int:
    """An open descriptor of a file that has `content`, for whoever closes it."""
    descriptor = os.memfd_create("moonmind")
    os.fchmod(descriptor, 0o600)
    with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(content)
    return descriptor


def path_of(descriptor: int) -> str:
    return f"/proc/{os.getpid()}/fd/{descriptor}"
