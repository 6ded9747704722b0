"""The last look at what an engine is about to be asked for, whatever decided it.

Judges the create arguments themselves against the policy, knowing nothing of how they came about:
a fault in any layer above ends here, before Docker hears of it. Pure.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from flows.errors import Fault, PolicyRefused
from flows.payload.fields import mount_target, network
from flows.payload.policy import Policy
from flows.payload.policy_check import image_is_allowed, is_allowed, user_is_allowed
from flows.spec import JOB_ROOT, LABEL_JOB_ID, ContainerSpec

_PLAIN = frozenset({"command", "entrypoint", "environment", "init", "shm_size", "working_dir"})
_IMAGE_ID = re.compile(r"sha256:[a-f0-9]{64}")


def require_within(arguments: Mapping[str, Any], spec: ContainerSpec, policy: Policy) -> None:
    """Raise `PolicyRefused` naming every argument that `policy` does not cover.

    `arguments` are those for `create_docker_container`. One that is not known here is refused.
    """
    unknown = sorted(arguments.keys() - _RULES.keys() - _PLAIN - {"mounts", "labels", "name"})
    faults = [Fault(name, "is nothing that a task may ask Docker for") for name in unknown]
    for name, is_within in _RULES.items():
        if not is_within(arguments.get(name), policy):
            faults.append(_fault(name, arguments.get(name)))
    if not image_is_allowed(spec.image, policy):
        faults.append(_fault("image", spec.image))
    faults += _identity_faults(arguments, spec)
    faults += _mount_faults(arguments.get("mounts") or [], spec)
    if faults:
        raise PolicyRefused(faults)


def _up_to(ceiling: float | None, value: float | None) -> bool:
    return ceiling is None or (value is not None and 0 < value <= ceiling)


def _network(value: str | None, policy: Policy) -> bool:
    try:
        name = network(value or "host")
    except ValueError:
        return False
    return name == policy.network or is_allowed([name], policy.allowed_networks)


def _gpus(requests: list[dict[str, Any]] | None, policy: Policy) -> bool:
    return all(
        request.keys() == {"count", "capabilities"}
        and request["capabilities"] == [["gpu"]]
        and (policy.max_gpus is None or 0 < request["count"] <= policy.max_gpus)
        for request in requests or []
    )


# Each judges one argument; None is one that is not there.
_RULES: dict[str, Callable[[Any, Policy], bool]] = {
    "image": lambda value, _: bool(_IMAGE_ID.fullmatch(value or "")),
    "platform": lambda value, _: value is None or isinstance(value, str),
    "privileged": lambda value, _: value is False,
    "network_mode": _network,
    "security_opt": lambda value, policy: (
        value == ["no-new-privileges"] if policy.no_new_privileges else not value
    ),
    "cap_add": lambda value, policy: set(value or ()) <= set(policy.cap_add),
    "cap_drop": lambda value, policy: set(value or ()) >= set(policy.cap_drop),
    "user": user_is_allowed,
    "pids_limit": lambda value, policy: _up_to(policy.pids_limit, value),
    "nano_cpus": lambda value, policy: _up_to(
        policy.max_cpus and round(policy.max_cpus * 10**9), value
    ),
    "mem_limit": lambda value, policy: _up_to(policy.max_memory_bytes, value),
    "memswap_limit": lambda value, policy: _up_to(policy.max_memory_bytes, value),
    "device_requests": _gpus,
}


def _identity_faults(arguments: Mapping[str, Any], spec: ContainerSpec) -> Iterator[Fault]:
    if arguments.get("name") != spec.name or not spec.name.startswith(f"mm-task-{spec.job_id}-"):
        yield _fault("name", arguments.get("name"))
    if arguments.get("labels", {}).get(LABEL_JOB_ID) != spec.job_id:
        yield _fault("labels", arguments.get("labels"))


def _mount_faults(mounts: list[Mapping[str, Any]], spec: ContainerSpec) -> Iterator[Fault]:
    own = f"{JOB_ROOT}/{spec.job_id}"
    for mount in mounts:
        is_own = mount.get("Target") == own
        if not (_shows_job(mount, spec) if is_own else _is_cache(mount)):
            yield _fault("mounts", dict(mount))
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
        return str(source).startswith(f"mm-task-{spec.job_id}-")
    return mount.get("VolumeOptions") == {"Subpath": spec.job_id} and _is_volume(mount)


def _is_cache(mount: Mapping[str, Any]) -> bool:
    try:
        mount_target(mount.get("Target") or "")
    except ValueError:
        return False
    return set(mount) == {"Type", "Source", "Target"} and _is_volume(mount)


def _is_volume(mount: Mapping[str, Any]) -> bool:
    return mount.get("Type") == "volume" and "/" not in (mount.get("Source") or "/")


def _fault(name: str, value: object) -> Fault:
    return Fault(
        name,
        f"{value!r:.200} is outside what the container policy allows, and was not sent to Docker: "
        "this is a fault of the runner, or the policy changed while the task was prepared",
    )
