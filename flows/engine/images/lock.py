"""flock per image, so that one process of a host pulls it, whatever others want it too.

The kernel lets go of a lock when its holder dies. A holder removes the file when it is through; a
pull that failed is written into it before that, for those who wait: they have the file open.
"""

import asyncio
import fcntl
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from flows.errors import ImageCause, ImageError, WorkspaceError

# What came of another's credentials or platform is none of ours.
_OWN = {ImageCause.DENIED, ImageCause.WRONG_PLATFORM}


class PullLock:
    """A lock for each image; the files are in `folder`, where all processes of the host look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @asynccontextmanager
    async def held(
        self, image: str, on_wait: Callable[[], None] = lambda: None
    ) -> AsyncIterator[bool]:
        """Hold the image's lock for the block; the value says whether somebody else had it before.

        `on_wait` is called once where one waits. Raises the `ImageError` that the one before ended
        with in the meantime, and `WorkspaceError`.
        """
        path = self._folder / hashlib.sha256(image.encode()).hexdigest()
        waited = False
        while True:
            descriptor = self._open(path)
            try:
                while not _try_lock(descriptor):
                    if not waited:
                        waited = True
                        on_wait()
                    await asyncio.sleep(0.2)
                if waited:
                    _raise_failure(descriptor)
                if _is_same(descriptor, path):
                    # Of one that died before it could remove the file.
                    os.ftruncate(descriptor, 0)
                    with _shared_failure(descriptor, path):
                        yield waited
                    return
            finally:
                os.close(descriptor)

    def _open(self, path: Path) -> int:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise WorkspaceError(f"cannot open {path}: {error.strerror}") from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same(descriptor: int, path: Path) -> bool:
    """Whether the file is still the one that others find under its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _shared_failure(descriptor: int, path: Path) -> Iterator[None]:
    """Remove the file after the block, and write into it before that how its pull failed."""
    try:
        yield
    except ImageError as error:
        if error.cause not in _OWN:
            # Where the disk is full, those who wait find out for themselves.
            with suppress(OSError):
                os.pwrite(descriptor, json.dumps([error.cause, str(error)]).encode(), 0)
        raise
    finally:
        path.unlink(missing_ok=True)


def _raise_failure(descriptor: int) -> None:
    try:
        cause, sentence = json.loads(os.pread(descriptor, 64 * 1024, 0))
    except ValueError:
        return
    raise ImageError(sentence, ImageCause(cause))
