"""Which registry an image comes from, and the log-in for it. Pure."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

DOCKER_HUB = "docker.io"
_HUB_NAMES = {DOCKER_HUB, "index.docker.io", "registry-1.docker.io"}


@dataclass(frozen=True, slots=True)
class Login:
    """What a registry is shown; kept in memory alone.

    `registry` is as `registry_host` gives it.
    """

    registry: str
    username: str
    password: str = field(repr=False)

    def as_auth_config(self) -> dict[str, str]:
        """What the engine takes for the length of one request."""
        return {
            "username": self.username,
            "password": self.password,
            "serveraddress": self.registry,
        }


def registry_of(image: str) -> str:
    """The registry of an image's name, as docker reads it: `docker.io` where it names none."""
    first, slash, _ = image.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return registry_host(first)
    return DOCKER_HUB


def registry_host(address: str) -> str:
    """The host, with its port where one is given, of what an operator calls a registry.

    Scheme, path and case do not count; Docker Hub's names are one.
    """
    address = address.strip()
    parts = urlsplit(address if "://" in address else f"//{address}")
    host = parts.netloc.rpartition("@")[2].lower()
    return DOCKER_HUB if host in _HUB_NAMES else host
