"""What jobs have on an engine: volumes, mounts, all with a job's label; its events of them; and the
container that gives a job's folder back.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import docker
import docker.errors
import requests.exceptions
from docker.types import LogConfig

from flows.engine.docker.client import pinged, require_ok, said, server_time, translated, url
from flows.engine.types import RECLAIM_SECONDS, Evidence, Image, Reclaim
from flows.errors import EngineError, Rejected
from flows.payload.policy_check import is_allowed
from flows.spec import LABEL_CACHE, LABEL_JOB_ID, ContainerSpec, Mount, Owned

# The first API version (Engine 26) that can mount a folder of a volume by itself.
SUBPATH_API = (1, 45)
# What names and labels all that is made for one container.
Named = ContainerSpec | Reclaim
# A stop from outside shows in the signals it sends.
_ACTIONS = ("kill", "oom", "die", "destroy")
# The deepest tree that was tried, of 4,000 folders with names of 250 letters, takes 60 MiB and 530
# processes.
_MEMORY_BYTES = 256 * 1024**2
_PIDS = 2048
# Past whatever mode and owner the files have, to change both, and nothing else.
_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER"]


def needs_run_volume(mount: Mount, api_version: tuple[int, ...]) -> bool:
    """Whether this engine can show one folder of a volume only through a volume of its own."""
    return mount.kind == "volume" and api_version < SUBPATH_API


def run_volume_name(spec: Named) -> str:
    """The per-run volume that shows the job's folder on engines without sub-paths."""
    return f"{spec.name}-workspace"


def run_volume_arguments(spec: Named, mount: Mount, mountpoint: str) -> dict[str, Any]:
    """Arguments for the creation of the per-run volume; removing it leaves the data."""
    return {
        "name": run_volume_name(spec),
        "driver": "local",
        "driver_opts": {"type": "none", "o": "bind", "device": f"{mountpoint}/{mount.subpath}"},
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
    """Make the volumes that are missing; the names of the caches made.

    `allowed` are globs for volumes with others' data that may be mounted.
    """
    caches = [mount for mount in spec.mounts if mount.kind == "cache"]
    missing = [mount for mount in caches if not _cache_exists(api, mount, allowed)]
    for mount in spec.mounts:
        create_run_volume(api, spec, mount, api_version)
    for mount in missing:
        api.create_volume(**cache_volume_arguments(mount))
    return [mount.source for mount in missing]


def _cache_exists(api: docker.APIClient, mount: Mount, allowed: list[str]) -> bool:
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
    remove_own(api, "volume", run_volume_name(spec), spec.job_id)


def list_owned(api: docker.APIClient) -> Iterator[Owned]:
    """Every container, per-run volume and network that carries a job's label."""
    ours = {"label": LABEL_JOB_ID}
    for found in api.containers(all=True, filters=ours):
        yield Owned("container", found["Names"][0].lstrip("/"), found["Id"], found["Labels"])
    for found in api.volumes(filters=ours)["Volumes"] or []:
        yield Owned("volume", found["Name"], found["Name"], found["Labels"])
    for found in api.networks(filters=ours):
        yield Owned("network", found["Name"], found["Id"], found["Labels"])


def remove_own(api: docker.APIClient, kind: str, name: str, job_id: str) -> bool:
    """Remove a container, running or not, a volume or a network, by its name or id, if it carries
    the job's label; whether it was removed."""
    try:
        # Read again right before: the object of that name may be somebody else's by now.
        found = getattr(api, f"inspect_{kind}")(name)
        labels = found["Config"]["Labels"] if kind == "container" else found["Labels"]
        if (labels or {}).get(LABEL_JOB_ID) != job_id:
            return False
        if kind == "container":
            api.remove_container(name, force=True, v=True)
        else:
            getattr(api, f"remove_{kind}")(name)
    except docker.errors.NotFound:
        return False
    except docker.errors.APIError as error:
        if kind != "container" or "is already in progress" not in said(error):
            raise
    return True


def read_evidence(client: docker.DockerClient, name: str, since: datetime) -> Evidence:
    """What happened to the container `name` from `since` until now. Raises `EngineError`.

    `since` is best a time that the engine told. After an inspect of a stopped container its end is
    on record.
    """
    with translated("reading what happened to the container"):
        start = since.timestamp()
        # The engine refuses a window that ends before it begins.
        window = {"since": f"{start:.6f}", "until": f"{max(_now(client), start):.6f}"}
        filters = {"container": [name], "event": _ACTIONS, "type": ["container"]}
        # The docker-proxy lets exactly this query through, spaces and order included.
        query = window | {"filters": json.dumps(filters, separators=(",", ":"))}
        # docker-py's own `events` waits without limit and takes a cut connection for the end.
        api = client.api
        answer = api.get(url(api, "/events"), params=query, timeout=api.timeout)
        require_ok(answer)
        return evidence_of(name, map(json.loads, answer.text.splitlines()))


def evidence_of(name: str, events: Iterable[Mapping[str, Any]]) -> Evidence:
    """The evidence about the container `name` in events of `GET /events`."""
    # The engine's own filter takes a name for the beginning of one.
    own = [event for event in events if event["Actor"]["Attributes"].get("name") == name]
    actions = {event["Action"] for event in own}
    exit_codes = _numbers(own, "die", "exitCode")
    return Evidence(
        signals=_numbers(own, "kill", "signal"),
        oom="oom" in actions,
        exit_code=exit_codes[-1] if exit_codes else None,
        destroyed="destroy" in actions,
    )


def _numbers(events: Iterable[Mapping[str, Any]], action: str, key: str) -> tuple[int, ...]:
    return tuple(
        int(event["Actor"]["Attributes"][key]) for event in events if event["Action"] == action
    )


def _now(client: docker.DockerClient) -> float:
    """The engine's time. An end in its future makes it wait; one in its past hides the last
    events, so a clock that differs is not believed."""
    now, here = server_time(pinged(client.api)), time.time()
    told = now.timestamp() if now else here
    # The engine tells whole seconds.
    return here if told <= here < told + 2 else told + 1


def reclaim_arguments(
    reclaim: Reclaim, image: Image, api_version: tuple[int, ...]
) -> dict[str, Any]:
    """Arguments for docker-py's `containers.create`: pure."""
    return {
        "image": image.id,
        # An image may have an entry point that would take the command for its arguments.
        "entrypoint": list(reclaim.command[:1]),
        "command": list(reclaim.command[1:]),
        "name": reclaim.name,
        "labels": dict(reclaim.labels),
        "user": "0:0",
        # Where the engine gives containers a user namespace of their own, the worker's user is none
        # of those in it.
        "userns_mode": "host",
        "mounts": [mount_arguments(reclaim, reclaim.mount, api_version)],
        "working_dir": "/",
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "cap_add": _CAPABILITIES,
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        "privileged": False,
        "pids_limit": _PIDS,
        "mem_limit": _MEMORY_BYTES,
        "memswap_limit": _MEMORY_BYTES,
        # One that can be read, whatever the engine's default is.
        "log_config": LogConfig(type=LogConfig.types.JSON, config={"max-size": "64k"}),
    }


def run_reclaim(
    client: docker.DockerClient, reclaim: Reclaim, image: Image, api_version: tuple[int, ...]
) -> None:
    """Run it to its end, and leave nothing of it. Raises `EngineError`, and what docker-py does."""
    # Of an earlier process that died over it.
    _remove_helper(client.api, reclaim)
    try:
        create_run_volume(client.api, reclaim, reclaim.mount, api_version)
        client.containers.create(**reclaim_arguments(reclaim, image, api_version))
        client.api.start(reclaim.name)
        _require_success(client.api, reclaim)
    finally:
        _remove_helper(client.api, reclaim)


def _require_success(api: docker.APIClient, reclaim: Reclaim) -> None:
    deadline = time.monotonic() + RECLAIM_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        # Whether the time is over or the connection broke looks alike; the state tells.
        with suppress(requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError):
            api.wait(reclaim.name, timeout=left)  # type: ignore[arg-type]
        state = api.inspect_container(reclaim.name)["State"]
        if not state["Running"]:
            break
    else:
        raise EngineError(f"it took longer than {RECLAIM_SECONDS:.0f} s")
    if state["ExitCode"] != 0:
        said = api.logs(reclaim.name, tail=3).decode("utf-8", "backslashreplace")
        reason = " ".join(said.split()) or state["Error"] or "it said nothing"
        raise EngineError(f"it exited {state['ExitCode']}: {reason:.300}")


def _remove_helper(api: docker.APIClient, reclaim: Reclaim) -> None:
    remove_own(api, "container", reclaim.name, reclaim.job_id)
    remove_run_volume(api, reclaim)
