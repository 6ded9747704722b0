"""The container that gives a job's folder back to a worker that is not root."""

import time
from contextlib import suppress
from typing import Any

import docker
import requests.exceptions
from docker.types import LogConfig

from flows.engine.docker.ownership import remove_own
from flows.engine.docker.volumes import create_run_volume, mount_arguments, remove_run_volume
from flows.engine.types import RECLAIM_SECONDS, Image, Reclaim
from flows.errors import EngineError

# The deepest tree that was tried, of 4,000 folders with names of 250 letters, takes 60 MiB and 530
# processes.
_MEMORY_BYTES = 256 * 1024**2
_PIDS = 2048
# Past whatever mode and owner the files have, to change both, and nothing else. Not
# DAC_READ_SEARCH: with it, open_by_handle_at(2) leads to every file of the folder's disk.
_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER"]


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
        "use_config_proxy": False,
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
