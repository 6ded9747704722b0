"""Registries by their host names, what an engine shows them, and which images came that way."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from flows.errors import WorkspaceError
from flows.payload.image_reference import DOCKER_HUB, HUB_NAMES

_HUB_LOG_IN = "https://index.docker.io/v1/"


@dataclass(frozen=True, slots=True)
class Login:
    """What the registry, named as by `registry_host`, is shown; kept in memory alone."""

    registry: str
    username: str
    password: str = field(repr=False)

    def as_auth_config(self) -> dict[str, str]:
        """What the engine takes for the length of one request."""
        return {
            "username": self.username,
            "password": self.password,
            # By the name that every engine knows it by.
            "serveraddress": _HUB_LOG_IN if self.registry == DOCKER_HUB else self.registry,
        }


def registry_host(address: str) -> str:
    """The host, with its port, of a registry's address, in one form; empty for what is none."""
    address = address.strip()
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2].lower()
    return DOCKER_HUB if host in HUB_NAMES else host


class PrivateImages:
    """Marker files in `folder` for the ids and names of images that came with credentials.

    Empty, each named by a hash: made in one step, whoever else makes one, and without a secret.
    """

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
