"""Check create arguments against the policy right before Docker gets them. Pure.

It knows nothing of how they came about: a fault in any layer above ends here.
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from flows.engine.docker.options import OPTIONS
from flows.errors import Fault, PolicyRefused
from flows.payload.fields import mount_target
from flows.payload.policy import Policy
from flows.payload.policy_check import image_is_allowed, is_allowed
from flows.spec import EVERYBODY, JOB_ROOT, LABEL_JOB_ID, NAME_PREFIX, ContainerSpec


def require_within(arguments: Mapping[str, Any], spec: ContainerSpec, policy: Policy) -> None:
    """Raise `PolicyRefused` naming every create argument that is unknown or beyond `policy`."""
    unknown = sorted(arguments.keys() - {option.key for option in OPTIONS})
    faults = [Fault(key, "is nothing that a task may ask Docker for") for key in unknown]
    for option in OPTIONS:
        value = arguments.get(option.key)
        if not option.is_allowed(value, policy):
            faults.append(_not_allowed(option.key, value))
    name, labels = arguments.get("name"), arguments.get("labels") or {}
    if name != spec.name or not spec.name.startswith(f"{NAME_PREFIX}{spec.job_id}-"):
        faults.append(_not_allowed("name", name))
    if labels.get(LABEL_JOB_ID) != spec.job_id:
        faults.append(_not_allowed("labels", labels))
    if not image_is_allowed(spec.image, policy):
        faults.append(_not_allowed("image", spec.image))
    faults += _mount_faults(arguments.get("mounts") or [], spec)
    faults += _sharing_faults(spec, policy)
    if faults:
        raise PolicyRefused(faults)


def _mount_faults(mounts: list[Mapping[str, Any]], spec: ContainerSpec) -> Iterator[Fault]:
    own = f"{JOB_ROOT}/{spec.job_id}"
    for mount in mounts:
        is_own = mount.get("Target") == own
        if not (_shows_job(mount, spec) if is_own else _is_cache(mount, spec)):
            yield _not_allowed("mounts", dict(mount))
    if sum(mount.get("Target") == own for mount in mounts) != 1:
        yield Fault("mounts", "do not show the job's own folder, once")


def _shows_job(mount: Mapping[str, Any], spec: ContainerSpec) -> bool:
    """Whether it shows this job's folder and nothing above or beside it."""
    source = PurePosixPath(mount.get("Source") or "")
    if mount.get("Type") == "bind":
        is_plain = source.is_absolute() and ".." not in source.parts and len(source.parts) > 2
        return (
            set(mount) == {"Type", "Source", "Target"} and is_plain and source.name == spec.job_id
        )
    if set(mount) == {"Type", "Source", "Target"}:
        return str(source).startswith(f"{NAME_PREFIX}{spec.job_id}-")
    return mount.get("VolumeOptions") == {"Subpath": spec.job_id} and _is_volume(mount)


def _is_cache(mount: Mapping[str, Any], spec: ContainerSpec) -> bool:
    """Whether it is a named volume, and neither one of the runner's nor that of all jobs."""
    name = str(mount.get("Source"))
    jobs = {each.source for each in spec.mounts if each.kind == "volume"}
    if name in jobs or name.startswith(NAME_PREFIX):
        return False
    try:
        mount_target(mount.get("Target") or "")
    except ValueError:
        return False
    return set(mount) == {"Type", "Source", "Target"} and _is_volume(mount)


def _sharing_faults(spec: ContainerSpec, policy: Policy) -> Iterator[Fault]:
    for mount in spec.mounts:
        if mount.owner == EVERYBODY and not is_allowed([mount.source], policy.allowed_caches):
            yield _not_allowed("mounts", mount)


def _is_volume(mount: Mapping[str, Any]) -> bool:
    return mount.get("Type") == "volume" and "/" not in (mount.get("Source") or "/")


def _not_allowed(name: str, value: object) -> Fault:
    return Fault(
        name,
        f"{value!r:.200} is outside what the container policy allows, and was not sent to Docker: "
        "this is a fault of the runner, or the policy changed while the task was prepared",
    )
