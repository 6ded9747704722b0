"""What this runner owns on an engine, by label, and its removal."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import docker
import docker.errors

from flows.engine.docker.convert import (
    Named,
    cache_volume_arguments,
    needs_run_volume,
    run_volume_arguments,
    run_volume_name,
)
from flows.engine.docker.errors import said
from flows.errors import Rejected
from flows.payload.policy_check import is_allowed
from flows.spec import LABEL_CACHE, LABEL_JOB_ID, ContainerSpec, Mount, Owned


def list_owned(api: docker.APIClient) -> Iterator[Owned]:
    """Every container, per-run volume and network that carries a job's label."""
    ours = {"label": LABEL_JOB_ID}
    for found in api.containers(all=True, filters=ours):
        yield Owned("container", found["Names"][0].lstrip("/"), found["Id"], found["Labels"])
    for found in api.volumes(filters=ours)["Volumes"] or []:
        yield Owned("volume", found["Name"], found["Name"], found["Labels"])
    for found in api.networks(filters=ours):
        yield Owned("network", found["Name"], found["Id"], found["Labels"])


def discard(api: docker.APIClient, owned: Owned) -> bool:
    """Remove it if it still carries its job's label; whether it was removed."""
    kinds: dict[str, tuple[Callable[[str], Any], Callable[[str], Any]]] = {
        "container": (
            lambda key: api.inspect_container(key)["Config"]["Labels"],
            lambda key: remove_container(api, key),
        ),
        "volume": (lambda key: api.inspect_volume(key)["Labels"], api.remove_volume),
        "network": (lambda key: api.inspect_network(key)["Labels"], api.remove_network),
    }
    labels_of, remove = kinds[owned.kind]
    try:
        # Read again right before: the object of that name may be somebody else's by now.
        if (labels_of(owned.id) or {}).get(LABEL_JOB_ID) != owned.job_id:
            return False
        remove(owned.id)
    except docker.errors.NotFound:
        return False
    return True


def remove_container(api: docker.APIClient, container: str) -> None:
    """Remove a container, running or not; one that is gone or going is no error."""
    try:
        api.remove_container(container, force=True, v=True)
    except docker.errors.NotFound:
        return
    except docker.errors.APIError as error:
        if "is already in progress" not in said(error):
            raise


def prepare(
    api: docker.APIClient, spec: ContainerSpec, api_version: tuple[int, ...], allowed: list[str]
) -> list[str]:
    """Judge every volume, then make the missing ones; the names of the caches made.

    `allowed` are globs for volumes that the runner did not make.
    """
    caches = [mount for mount in spec.mounts if mount.kind == "cache"]
    missing = [mount for mount in caches if not _is_there(api, mount, allowed)]
    for mount in spec.mounts:
        if needs_run_volume(mount, api_version):
            mountpoint = api.inspect_volume(mount.source)["Mountpoint"]
            api.create_volume(**run_volume_arguments(spec, mount, mountpoint))
    for mount in missing:
        api.create_volume(**cache_volume_arguments(mount))
    return [mount.source for mount in missing]


def _is_there(api: docker.APIClient, mount: Mount, allowed: list[str]) -> bool:
    """Whether the cache exists; raises `Rejected` where it is a volume with others' data."""
    try:
        found = api.inspect_volume(mount.source)
    except docker.errors.NotFound:
        return False
    if not is_allowed([mount.source], allowed) and LABEL_CACHE not in (found.get("Labels") or {}):
        raise Rejected(
            f"the volume {mount.source!r} exists and is not a cache of this runner: choose "
            "another name in task.container.cacheVolumes, or have an operator add it to "
            "allowed_volumes in the container policy block"
        )
    return True


def remove_caches(api: docker.APIClient, names: list[str]) -> None:
    """Take back the caches that were made for a task which then was refused."""
    for name in names:
        # One that another task mounted meanwhile is in use, and stays.
        with suppress(docker.errors.APIError):
            api.remove_volume(name)


def remove_run_volume(api: docker.APIClient, spec: Named) -> None:
    """Remove the per-run volume if it is this job's; the data it showed stays."""
    name = run_volume_name(spec)
    with suppress(docker.errors.NotFound):
        labels = api.inspect_volume(name).get("Labels") or {}
        if labels.get(LABEL_JOB_ID) == spec.job_id:
            api.remove_volume(name)
