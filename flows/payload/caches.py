"""Whose a cache volume is, and who may mount one that exists. Pure.

What is in a cache runs in the next task that mounts it, so it is for the runs of one repository: a
run has checked that out before its container exists.
"""

from collections.abc import Iterator, Mapping

from flows.errors import EngineError
from flows.payload.models import TaskPayload
from flows.payload.policy import Policy
from flows.payload.policy_check import is_allowed
from flows.spec import EVERYBODY, LABEL_CACHE, LABEL_CACHE_OWNER, Mount, Run

_COMPOSE = "com.docker.compose.project"
_OTHERWISE = (
    "choose another name in task.container.cacheVolumes, or have an operator add it to {} in the "
    "container policy block"
)


def cache_mounts(payload: TaskPayload, policy: Policy, run: Run) -> Iterator[Mount]:
    """The mounts of the payload's caches, each with its owner."""
    owner = _owner(payload, run)
    for each in payload.task.container.cache_volumes:
        is_shared = is_allowed([each.name], policy.allowed_caches)
        yield Mount("cache", each.name, each.target, owner=EVERYBODY if is_shared else owner)


def _owner(payload: TaskPayload, run: Run) -> str:
    if payload.remote:
        return f"repository:{payload.remote.owner}"
    return f"deployment:{run.deployment}" if run.deployment else "flow:container-task"


def require_owner(mount: Mount) -> None:
    """Raise `EngineError` for a cache of a spec that an earlier version stored: another attempt,
    which is prepared anew, knows whose it is."""
    if not mount.owner:
        raise EngineError(
            f"an earlier version prepared this attempt, and noted not whose the cache "
            f"{mount.source!r} is: another attempt knows, or another run of the task"
        )


def cache_labels(mount: Mount) -> Mapping[str, str]:
    """The labels of a cache that is made for the mount."""
    return {LABEL_CACHE: "true", LABEL_CACHE_OWNER: mount.owner}


def refusal(mount: Mount, labels: Mapping[str, str], allowed_volumes: list[str]) -> str | None:
    """Why an existing volume of these labels is not for the mount; None where it is."""
    name, owner = mount.source, labels.get(LABEL_CACHE_OWNER)
    if LABEL_CACHE not in labels:
        return _data_refusal(name, labels.get(_COMPOSE), allowed_volumes)
    if mount.owner in (EVERYBODY, owner):
        return None
    if owner == EVERYBODY:
        said = "was made for every run, and allowed_caches names it no more"
    elif owner:
        said = f"belongs to {owner}, and this run is of {mount.owner}"
    else:
        said = (
            "was made by an earlier version and belongs to nobody: have an operator remove it "
            f"(docker volume rm {name}), and the next run makes it anew"
        )
        return f"the cache {name!r} {said}; or {_OTHERWISE.format('allowed_caches')}"
    return f"the cache {name!r} {said}: {_OTHERWISE.format('allowed_caches')}"


def _data_refusal(name: str, project: str | None, allowed: list[str]) -> str | None:
    # What a wildcard covers by accident may be a database.
    if name in allowed or (not project and is_allowed([name], allowed)):
        return None
    of = f" (it is of the compose project {project}, so name it in full)" if project else ""
    return (
        f"the volume {name!r} exists and is not a cache of this runner: "
        f"{_OTHERWISE.format(f'allowed_volumes{of}')}"
    )
