"""Marker files for images that came with credentials: they are for runs that have some.

An empty file each, named by a hash: made in one step, whoever else makes one, and without a secret.
"""

import hashlib
from pathlib import Path

from flows.errors import WorkspaceError


class PrivateImages:
    """The marks in `folder`, of image ids and of names whose pull began with credentials."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, *texts: str) -> bool:
        """Whether any of them is marked."""
        return any(self._mark(text).exists() for text in texts)

    def add(self, text: str) -> None:
        """Mark it. Raises `WorkspaceError`."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._mark(text).touch(mode=0o600)
        except OSError as error:
            raise WorkspaceError(f"cannot write {self._mark(text)}: {error.strerror}") from error

    def remove(self, *texts: str) -> None:
        """Take the marks away, where there are any. Raises `WorkspaceError`."""
        for text in texts:
            try:
                self._mark(text).unlink(missing_ok=True)
            except OSError as error:
                raise WorkspaceError(
                    f"cannot remove {self._mark(text)}: {error.strerror}"
                ) from error

    def _mark(self, text: str) -> Path:
        return self._folder / hashlib.sha256(text.encode()).hexdigest()
