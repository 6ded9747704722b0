"""The operator's policy and a worker's capabilities held against a payload: every fault at once,
each with the rule and its remedy. Pure."""

import math
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import product

from flows.errors import CapabilityMissing, Fault, PolicyRefused
from flows.payload.container import Container
from flows.payload.image_reference import ImageName
from flows.payload.models import TaskPayload
from flows.payload.policy import Policy
from flows.payload.repository import REPO_AUTH, Remote
from flows.spec import Mount
from flows.units import memory_bytes

POLICY_BLOCK = "the block moonmind-container-policy/default"


def require_allowed(payload: TaskPayload, policy: Policy, mount: Mount | None = None) -> None:
    """Raise `PolicyRefused` with every rule of `policy` that forbids this task; `mount` is that of
    the job's folder, where it is known."""
    container = payload.task.container
    faults = [
        *_image_faults(container, policy),
        *_repository_faults(payload, policy),
        *_named_faults(payload, policy),
        *_ceiling_faults(container, policy),
        *_workspace_faults(container, mount),
    ]
    if faults:
        raise PolicyRefused(faults)


def missing_capabilities(payload: TaskPayload, capabilities: Iterable[str]) -> tuple[str, ...]:
    """What the task requires and a worker of these capabilities lacks."""
    has = set(capabilities)
    return tuple(word for word in payload.required_capabilities if word not in has)


def require_capabilities(payload: TaskPayload, capabilities: tuple[str, ...]) -> None:
    """Raise `CapabilityMissing` naming every capability that the worker lacks for the task."""
    if missing := missing_capabilities(payload, capabilities):
        raise CapabilityMissing(
            f"this worker lacks the capability {', '.join(missing)} that the task requires "
            f"(it has {', '.join(capabilities)}): send the task to a worker that has it, "
            "or add it to MOONMIND_WORKER_CAPABILITIES"
        )


def is_allowed(spellings: Iterable[str], globs: Iterable[str]) -> bool:
    """Whether a glob matches one of the spellings, in whole and in case.

    `*` alone matches everything. Any other glob matches part by part between slashes: a last part
    `*` as many as there are, `**` any number. What stands before the first slash, a host for
    instance, matches label by label between dots, where a first `*.` is as many as there are.
    """
    return any(_matches(*each) for each in product(spellings, globs))


def _matches(spelling: str, glob: str) -> bool:
    if glob in ("*", "**"):
        return True
    parts, (first, *rest) = spelling.split("/"), glob.split("/")
    if not rest:
        return len(parts) == 1 and fnmatchcase(spelling, glob)
    if first == "**":
        return _parts_match(parts, [first, *rest])
    return _host_matches(parts[0], first.lower()) and _parts_match(parts[1:], rest)


def _host_matches(host: str, glob: str) -> bool:
    labels, globs = host.split("."), glob.split(".")
    if glob == "*":
        return True
    if globs[0] == "*" and len(labels) >= len(globs):
        labels = ["*", *labels[len(labels) - len(globs) + 1 :]]
    return len(labels) == len(globs) and all(map(fnmatchcase, labels, globs))


def _parts_match(parts: list[str], globs: list[str]) -> bool:
    if not globs:
        return not parts
    first, *rest = globs
    if first == "*" and not rest:
        return bool(parts)
    if first == "**":
        return any(_parts_match(parts[n:], rest) for n in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], first) and _parts_match(parts[1:], rest)


def image_is_allowed(image: str, policy: Policy) -> bool:
    """Whether tasks may run the image of this name."""
    return is_allowed(ImageName.parse(image).spellings(), policy.allowed_images)


def repository_is_allowed(remote: Remote, policy: Policy) -> bool:
    """Whether tasks may check out the repository at this address."""
    globs, address = policy.allowed_repositories, remote.address
    return "*" in globs or (address is not None and is_allowed([address], globs))


def user_is_allowed(user: str | None, policy: Policy) -> bool:
    """Whether a container may run as this user; None is whoever the image names."""
    if "*" in policy.allowed_users or (user is not None and user == policy.user):
        return True
    return user is not None and is_allowed([user], policy.allowed_users)


def _image_faults(container: Container, policy: Policy) -> Iterator[Fault]:
    path, image = "task.container.image", container.image or ""
    if not image_is_allowed(image, policy):
        yield _not_among(path, image, "allowed_images", policy.allowed_images)
    if policy.require_digest and "@" not in image:
        yield Fault(
            path,
            f"{image} has no digest, and the container policy requires one (require_digest): "
            f"name the image as name@sha256:…, or have an operator change {POLICY_BLOCK}",
        )


def _repository_faults(payload: TaskPayload, policy: Policy) -> Iterator[Fault]:
    if (block := payload.repository_credentials) is not None:
        rule, allowed = "allowed_repository_credentials", policy.allowed_repository_credentials
        if not is_allowed([block], allowed):
            yield _not_among(REPO_AUTH, block, rule, allowed)
    remote = payload.remote
    if remote is not None and not repository_is_allowed(remote, policy):
        globs = policy.allowed_repositories
        yield _not_among("repository", remote.display, "allowed_repositories", globs)


def _named_faults(payload: TaskPayload, policy: Policy) -> Iterator[Fault]:
    container = payload.task.container
    # What the policy itself names needs no leave of it.
    network = container.network or policy.network
    if network != policy.network and not is_allowed([network], policy.allowed_networks):
        path, globs = "task.container.network", policy.allowed_networks
        yield _not_among(path, network, "allowed_networks", globs)
    user = container.user or policy.user
    if not user_is_allowed(user, policy):
        named, globs = user or "the image's own user", policy.allowed_users
        yield _not_among("task.container.user", named, "allowed_users", globs)
    for path, name in payload.secret_blocks.items():
        if not is_allowed([name], policy.allowed_secrets):
            yield _not_among(path, name, "allowed_secrets", policy.allowed_secrets)


def _ceiling_faults(container: Container, policy: Policy) -> Iterator[Fault]:
    limits = container.resources
    memory = memory_bytes(limits.memory) if limits.memory else None
    gpus = math.inf if limits.gpus == "all" else limits.gpus
    timeout, most_memory = container.timeout_seconds, policy.max_memory_bytes
    for key, value, rule, ceiling in (
        ("timeoutSeconds", timeout, "max_timeout_seconds", policy.max_timeout_seconds),
        ("resources.cpus", limits.cpus, "max_cpus", policy.max_cpus),
        ("resources.memory", memory, "max_memory", most_memory),
        ("resources.pids", limits.pids, "pids_limit", policy.pids_limit),
        ("resources.gpus", gpus, "max_gpus", policy.max_gpus),
    ):
        if value is not None and ceiling is not None and value > ceiling:
            shown = policy.max_memory if rule == "max_memory" else ceiling
            yield Fault(
                f"task.container.{key}",
                f"is above the ceiling of the container policy ({rule}: {shown}): ask for less, "
                f"or have an operator change {rule} in {POLICY_BLOCK}",
            )


def _workspace_faults(container: Container, mount: Mount | None) -> Iterator[Fault]:
    """The caches that name the volume of all job folders, which no policy allows."""
    for index, each in enumerate(container.cache_volumes):
        if mount and mount.kind == "volume" and each.name == mount.source:
            yield Fault(
                f"task.container.cacheVolumes[{index}].name",
                f"is {each.name!r}, the volume that holds the job folders of all runs on this "
                "host: choose another name",
            )


def _not_among(path: str, value: str, rule: str, globs: list[str]) -> Fault:
    among = ", ".join(globs) or "none"
    return Fault(
        path,
        f"{value} is not allowed by the container policy ({rule}: {among}): choose one that is, "
        f"or have an operator change {rule} in {POLICY_BLOCK}",
    )
