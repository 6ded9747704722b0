"""One pull of an image at a time on a host, whatever threads and processes want it.

A file an image, locked by whoever pulls; the kernel lets go of it when its holder dies. A holder
removes the file when it is through, and writes into it before that what became of a pull that
failed: those who waited for the lock have the file open and read it there.
"""

import asyncio
import fcntl
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from flows.errors import ImageCause, ImageError, WorkspaceError

_RETRY_SECONDS = 0.2
# What came of another's credentials or platform is none of ours.
_OWN = {ImageCause.DENIED, ImageCause.WRONG_PLATFORM}


class Turns:
    """Whose turn it is; the files are in `folder`, where every process of the host finds them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @asynccontextmanager
    async def taken(
        self, image: str, on_wait: Callable[[], None] = lambda: None
    ) -> AsyncIterator[bool]:
        """Hold the image's turn for the block; the value says whether somebody else had it before.

        `on_wait` is called once where there is somebody to wait for. Raises the `ImageError` that
        the one before ended with in the meantime, and `WorkspaceError` where the folder cannot be
        written.
        """
        path = self._folder / hashlib.sha256(image.encode()).hexdigest()
        waited = False
        while True:
            descriptor = self._open(path)
            try:
                if not _is_locked(descriptor):
                    if not waited:
                        on_wait()
                    waited = True
                    while not _is_locked(descriptor):
                        await asyncio.sleep(_RETRY_SECONDS)
                if waited:
                    _raise_failure(descriptor)
                # Of one that died before it could remove the file.
                os.ftruncate(descriptor, 0)
                if not _is_same(descriptor, path):
                    continue
                try:
                    yield waited
                except ImageError as error:
                    if error.cause not in _OWN:
                        _write_failure(descriptor, error)
                    raise
                finally:
                    path.unlink(missing_ok=True)
                return
            finally:
                os.close(descriptor)

    def _open(self, path: Path) -> int:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise WorkspaceError(f"cannot open {path}: {error.strerror}") from error


def _is_locked(descriptor: int) -> bool:
    """Whether the lock is ours now."""
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


def _write_failure(descriptor: int, error: ImageError) -> None:
    # Where the disk is full, those who wait find out for themselves.
    with suppress(OSError):
        os.pwrite(descriptor, json.dumps([error.cause, str(error)]).encode(), 0)


def _raise_failure(descriptor: int) -> None:
    try:
        cause, sentence = json.loads(os.pread(descriptor, 64 * 1024, 0))
    except ValueError:
        return
    raise ImageError(sentence, ImageCause(cause))
