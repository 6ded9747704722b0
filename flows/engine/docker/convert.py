"""From a spec to Docker's create arguments: pure, and the whole of what a task can ask of Docker.

The names are docker-py's keyword arguments, which prefect-docker hands on verbatim.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from flows.engine.types import Image
from flows.spec import LABEL_CACHE, ContainerSpec, Mount

# The first API version (Engine 26) that can mount a folder of a volume by itself.
SUBPATH_API = (1, 45)
# The first one that takes the platform of a container.
_PLATFORM_API = (1, 41)


class Named(Protocol):
    """What everything that is made for one container is named and labelled after."""

    @property
    def name(self) -> str: ...

    @property
    def job_id(self) -> str: ...

    @property
    def labels(self) -> Mapping[str, str]: ...


def create_arguments(
    spec: ContainerSpec,
    image: Image,
    api_version: tuple[int, ...],
    secrets: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Arguments for `create_docker_container`; the image goes by id, so no pull can change it.

    `secrets` are the values of the variables in `spec.secrets`: here, and nowhere before, they
    meet the rest of what the container gets.
    """
    arguments: dict[str, Any] = {
        "image": image.id,
        "command": list(spec.command),
        "name": spec.name,
        "environment": {**(secrets or {}), **spec.env},
        "labels": dict(spec.labels),
        "working_dir": spec.workdir,
        "mounts": [mount_arguments(spec, mount, api_version) for mount in spec.mounts],
        # A process of the image's own as pid 1 ignores SIGTERM and leaves its orphans unreaped.
        "init": True,
        "privileged": False,
        "network_mode": spec.network,
        "security_opt": ["no-new-privileges"] if spec.no_new_privileges else [],
        "cap_add": list(spec.cap_add),
        "cap_drop": list(spec.cap_drop),
        "pids_limit": spec.pids_limit,
    }
    if spec.entrypoint is not None:
        # Docker takes an empty list for "the image's own".
        arguments["entrypoint"] = list(spec.entrypoint) or [""]
    if spec.user is not None:
        arguments["user"] = spec.user
    if spec.shm_bytes is not None:
        arguments["shm_size"] = spec.shm_bytes
    if spec.gpus is not None:
        count = -1 if spec.gpus == "all" else spec.gpus
        arguments["device_requests"] = [{"count": count, "capabilities": [["gpu"]]}]
    if spec.platform is not None and api_version >= _PLATFORM_API:
        arguments["platform"] = spec.platform
    if spec.cpus is not None:
        arguments["nano_cpus"] = round(spec.cpus * 10**9)
    if spec.memory_bytes is not None:
        # Without a swap limit of the same size, Docker grants as much swap again.
        arguments |= {"mem_limit": spec.memory_bytes, "memswap_limit": spec.memory_bytes}
    return arguments


def needs_run_volume(mount: Mount, api_version: tuple[int, ...]) -> bool:
    """Whether this engine can show one folder of a volume only through a volume of its own."""
    return mount.kind == "volume" and api_version < SUBPATH_API


def run_volume_name(spec: Named) -> str:
    """The per-run volume that shows the job's folder on engines without sub-paths."""
    return f"{spec.name}-workspace"


def run_volume_arguments(spec: Named, mount: Mount, mountpoint: str) -> dict[str, Any]:
    """Arguments for the creation of the per-run volume; removing it leaves the data."""
    device = f"{mountpoint}/{mount.subpath}"
    return {
        "name": run_volume_name(spec),
        "driver": "local",
        "driver_opts": {"type": "none", "o": "bind", "device": device},
        "labels": dict(spec.labels),
    }


def cache_volume_arguments(mount: Mount) -> dict[str, Any]:
    """Arguments for the creation of a cache volume, recognisable later as one of ours."""
    return {"name": mount.source, "labels": {LABEL_CACHE: "true"}}


def mount_arguments(
    spec: Named, mount: Mount, api_version: tuple[int, ...]
) -> Mapping[str, object]:
    """One mount, as the API takes it."""
    if mount.kind == "bind":
        return {"Type": "bind", "Source": mount.source, "Target": mount.target}
    plain = {"Type": "volume", "Source": mount.source, "Target": mount.target}
    if mount.kind == "cache":
        return plain
    if needs_run_volume(mount, api_version):
        return plain | {"Source": run_volume_name(spec)}
    return plain | {"VolumeOptions": {"Subpath": mount.subpath}}
