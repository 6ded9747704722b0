"""What an operator calls a registry, and the log-in for it. Pure."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from flows.image_names import DOCKER_HUB, HUB_NAMES


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


def registry_host(address: str) -> str:
    """The host, with its port where one is given, of what an operator calls a registry.

    Scheme, path and case do not count; Docker Hub's names are one.
    """
    address = address.strip()
    parts = urlsplit(address if "://" in address else f"//{address}")
    host = parts.netloc.rpartition("@")[2].lower()
    return DOCKER_HUB if host in HUB_NAMES else host
