"""Host names of registries, and the log-in that an engine shows to one. Pure."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from flows.payload.image_reference import DOCKER_HUB, HUB_NAMES

_HUB_LOG_IN = "https://index.docker.io/v1/"


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
            # By the name that every engine knows it by.
            "serveraddress": _HUB_LOG_IN if self.registry == DOCKER_HUB else self.registry,
        }


def registry_host(address: str) -> str:
    """The host, with its port where one is given, of what an operator calls a registry.

    Scheme, path and case do not count; Docker Hub's names are one. Empty for what is no address.
    """
    address = address.strip()
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2].lower()
    return DOCKER_HUB if host in HUB_NAMES else host
