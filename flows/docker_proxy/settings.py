"""What an operator sets: `DOCKER_PROXY_*` of the environment, read once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from flows.spec import TASK_NETWORK

# What Docker gives a container that drops nothing.
DOCKERS_CAPABILITIES = frozenset(
    (
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
        *("NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    )
)
# Of these, and of what gives nothing beyond the container's own namespaces. Not NET_RAW, NET_ADMIN:
# with either, a container takes another's address on their network. Not DAC_READ_SEARCH: with it,
# open_by_handle_at(2) reads every file of a mounted folder's disk.
CAPABILITIES = (DOCKERS_CAPABILITIES - {"NET_RAW"}) | {"IPC_LOCK", "SYS_NICE"}
_SOCKET = "/var/run/docker.sock"
# On Docker's own bridge, containers reach each other.
NETWORKS = frozenset({TASK_NETWORK, "none"})
# These make a container its host's, or another container's.
_NEVER_A_NETWORK = ("host", "container:")


@dataclass(frozen=True, slots=True)
class Settings:
    """`workspace_volume` is the volume with the job folders, empty where there is none; `volumes`
    are those beside the runner's caches that tasks may mount."""

    address: tuple[str, int]
    engine_socket: str = _SOCKET
    workspace_volume: str = ""
    bind_mounts: bool = False
    networks: frozenset[str] = NETWORKS
    capabilities: frozenset[str] = CAPABILITIES
    volumes: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Raises `ValueError` for an address that is none, and what no setting can allow."""
        host, _, port = environ.get("DOCKER_PROXY_BIND", "*:2375").rpartition(":")
        networks = _words(environ, "DOCKER_PROXY_NETWORKS")
        if host_wide := [each for each in networks if each.startswith(_NEVER_A_NETWORK)]:
            raise ValueError(f"DOCKER_PROXY_NETWORKS: {', '.join(host_wide)} is no task's network")
        named = _words(environ, "DOCKER_PROXY_CAPABILITIES")
        capabilities = frozenset(each.removeprefix("CAP_") for each in named)
        if "ALL" in capabilities:
            raise ValueError("DOCKER_PROXY_CAPABILITIES: name each; ALL is root of the host")
        return cls(
            address=("0.0.0.0" if host == "*" else host, int(port)),
            engine_socket=environ.get("DOCKER_PROXY_SOCKET", _SOCKET),
            workspace_volume=environ.get("DOCKER_PROXY_WORKSPACE_VOLUME", ""),
            bind_mounts=environ.get("DOCKER_PROXY_BIND_MOUNTS", "deny") == "allow",
            networks=NETWORKS | networks,
            capabilities=CAPABILITIES | capabilities,
            volumes=_words(environ, "DOCKER_PROXY_VOLUMES"),
        )


def _words(environ: Mapping[str, str], name: str) -> frozenset[str]:
    return frozenset(environ.get(name, "").replace(",", " ").split())
