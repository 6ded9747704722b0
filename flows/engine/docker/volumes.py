"""The mounts of a container: the job's folder, on older engines by a volume of the run's own, and
cache volumes.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import docker
import docker.errors

from flows.engine.docker.ownership import remove_own
from flows.engine.types import Reclaim
from flows.errors import Rejected
from flows.payload.caches import cache_labels, refusal, require_owner
from flows.spec import RUN_VOLUME_SUFFIX, ContainerSpec, Mount

# The first API version (Engine 26) that can mount a folder of a volume by itself.
SUBPATH_API = (1, 45)
# What names and labels all that is made for one container.
Named = ContainerSpec | Reclaim


def needs_run_volume(mount: Mount, api_version: tuple[int, ...]) -> bool:
    """Whether this engine can show one folder of a volume only through a volume of its own."""
    return mount.kind == "volume" and api_version < SUBPATH_API


def run_volume_name(spec: Named) -> str:
    """The per-run volume that shows the job's folder on engines without sub-paths."""
    return f"{spec.name}{RUN_VOLUME_SUFFIX}"


def run_volume_arguments(spec: Named, mount: Mount, mountpoint: str) -> dict[str, Any]:
    """Arguments for the creation of the per-run volume; removing it leaves the data."""
    return {
        "name": run_volume_name(spec),
        "driver": "local",
        "driver_opts": {"type": "none", "o": "bind", "device": f"{mountpoint}/{mount.subpath}"},
        "labels": dict(spec.labels),
    }


def cache_volume_arguments(mount: Mount) -> dict[str, Any]:
    """Arguments for the creation of a cache volume, recognisable later as its owner's."""
    return {"name": mount.source, "labels": dict(cache_labels(mount))}


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


def create_run_volume(
    api: docker.APIClient, spec: Named, mount: Mount, api_version: tuple[int, ...]
) -> None:
    """Make the per-run volume, where this engine needs one for the mount."""
    if needs_run_volume(mount, api_version):
        mountpoint = api.inspect_volume(mount.source)["Mountpoint"]
        api.create_volume(**run_volume_arguments(spec, mount, mountpoint))


def create_volumes(
    api: docker.APIClient, spec: ContainerSpec, api_version: tuple[int, ...], allowed: list[str]
) -> list[str]:
    """Make the volumes that are missing; the names of the caches made. Raises `Rejected` where one
    that exists is not for the spec, and `EngineError` where nobody knows whose one is.

    `allowed` are globs for volumes with others' data that may be mounted.
    """
    caches = [mount for mount in spec.mounts if mount.kind == "cache"]
    for mount in caches:
        require_owner(mount)
    missing = [mount for mount in caches if not _cache_exists(api, mount, allowed)]
    for mount in spec.mounts:
        create_run_volume(api, spec, mount, api_version)
    made: list[str] = []
    for mount in missing:
        # One that somebody else made meanwhile is answered like a new one.
        found = api.create_volume(**cache_volume_arguments(mount))
        try:
            _require_own(mount, found, allowed)
        except Rejected:
            remove_caches(api, made)
            remove_run_volume(api, spec)
            raise
        made.append(mount.source)
    return made


def _cache_exists(api: docker.APIClient, mount: Mount, allowed: list[str]) -> bool:
    """Whether the cache exists; raises `Rejected` where it is not for the mount."""
    try:
        found = api.inspect_volume(mount.source)
    except docker.errors.NotFound:
        return False
    _require_own(mount, found, allowed)
    return True


def _require_own(mount: Mount, found: Mapping[str, Any], allowed: list[str]) -> None:
    if said := refusal(mount, found.get("Labels") or {}, allowed):
        raise Rejected(said)


def remove_caches(api: docker.APIClient, names: list[str]) -> None:
    """Take back the caches that were made for a task which then was refused."""
    for name in names:
        # One that another task mounted meanwhile is in use, and stays.
        with suppress(docker.errors.APIError):
            api.remove_volume(name)


def remove_run_volume(api: docker.APIClient, spec: Named) -> None:
    """Remove the per-run volume if it is this job's; the data it showed stays."""
    remove_own(api, "volume", run_volume_name(spec), spec.job_id)
