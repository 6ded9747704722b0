"""Docker's options for a container, one row each: what a spec sets it to, how `docker run` says it,
and which values the guard lets pass. Pure; a further option is a further row."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from flows.engine.docker.volumes import mount_arguments
from flows.engine.types import Image
from flows.payload.fields import network
from flows.payload.policy import Policy
from flows.payload.policy_check import is_allowed, user_is_allowed
from flows.spec import LABEL_JOB_ID, ContainerSpec

# The first API version that takes the platform of a container.
_PLATFORM_API = (1, 41)
_IMAGE_ID = re.compile(r"sha256:[a-f0-9]{64}")

# Options of `docker run`, each with its value.
Words = Iterator[tuple[str, str]]


class Creation(NamedTuple):
    """What one container is created from. `secrets` are the values of `spec.secrets`: here, and
    nowhere before, they meet the rest of what the container gets."""

    spec: ContainerSpec
    image: Image
    api_version: tuple[int, ...]
    secrets: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Option:
    """One argument of docker-py's `containers.create`.

    `value` is what a creation sets it to; None leaves it out. `words` says a value to `docker run`.
    `is_allowed` judges the value itself, or None where there is none, whatever decided it.
    """

    key: str
    value: Callable[[Creation], Any]
    words: Callable[[Any], Words]
    is_allowed: Callable[[Any, ContainerSpec, Policy], bool]


def _unsaid(_value: object) -> Words:
    return iter(())


def _one(name: str) -> Callable[[object], Words]:
    return lambda value: iter([(name, str(value))])


def _each(name: str) -> Callable[[list[str]], Words]:
    return lambda values: ((name, value) for value in values)


def _env_words(variables: Mapping[str, str]) -> Words:
    return (("--env", f"{name}={value}") for name, value in variables.items())


def _cpu_words(nano_cpus: int) -> Words:
    yield "--cpus", f"{nano_cpus / 1e9:.9f}".rstrip("0").rstrip(".")


def _bytes(name: str) -> Callable[[int], Words]:
    def words(number: int) -> Words:
        units = ((1024**3, "g"), (1024**2, "m"), (1024, "k"))
        exact = (f"{number // each}{unit}" for each, unit in units if number % each == 0)
        yield name, next(exact, str(number))

    return words


def _gpu_words(requests: list[Mapping[str, Any]]) -> Words:
    for request in requests:
        yield "--gpus", "all" if request["count"] == -1 else str(request["count"])


def _mount_words(mounts: list[Mapping[str, Any]]) -> Words:
    for mount in mounts:
        # Docker reads it as a line of CSV.
        line = io.StringIO()
        fields = ["type=volume", f"source={mount['Source']}", f"target={mount['Target']}"]
        csv.writer(line, lineterminator="").writerow(fields)
        yield "--mount", line.getvalue()


def _entrypoint(creation: Creation) -> list[str] | None:
    words = creation.spec.entrypoint
    # Docker takes an empty list for "the image's own".
    return None if words is None else list(words) or [""]


def _mounts(creation: Creation) -> list[Mapping[str, object]]:
    spec, version = creation.spec, creation.api_version
    return [mount_arguments(spec, mount, version) for mount in spec.mounts]


def _gpus(creation: Creation) -> list[Mapping[str, object]] | None:
    gpus = creation.spec.gpus
    count = -1 if gpus == "all" else gpus
    return None if count is None else [{"count": count, "capabilities": [["gpu"]]}]


def _any(_value: object, _spec: ContainerSpec, _policy: Policy) -> bool:
    return True


def _is_own_name(value: str | None, spec: ContainerSpec, _policy: Policy) -> bool:
    return value == spec.name and spec.name.startswith(f"mm-task-{spec.job_id}-")


def _is_network(value: str | None, _spec: ContainerSpec, policy: Policy) -> bool:
    try:
        name = network(value or "host")
    except ValueError:
        return False
    return name == policy.network or is_allowed([name], policy.allowed_networks)


def _is_security(value: list[str] | None, _spec: ContainerSpec, policy: Policy) -> bool:
    return value == ["no-new-privileges"] if policy.no_new_privileges else not value


def _are_gpus(value: list[dict[str, Any]] | None, _spec: ContainerSpec, policy: Policy) -> bool:
    return all(
        request.keys() == {"count", "capabilities"}
        and request["capabilities"] == [["gpu"]]
        and (policy.max_gpus is None or 0 < request["count"] <= policy.max_gpus)
        for request in value or []
    )


def _up_to(
    ceiling: Callable[[Policy], float | None],
) -> Callable[[float | None, ContainerSpec, Policy], bool]:
    def is_allowed(value: float | None, _spec: ContainerSpec, policy: Policy) -> bool:
        most = ceiling(policy)
        return most is None or (value is not None and 0 < value <= most)

    return is_allowed


_max_memory = _up_to(lambda policy: policy.max_memory_bytes)

OPTIONS = (
    # By id, so that no pull can change it.
    Option(
        "image", lambda c: c.image.id, _unsaid, lambda v, _, __: bool(_IMAGE_ID.fullmatch(v or ""))
    ),
    Option("command", lambda c: list(c.spec.command), _unsaid, _any),
    # In `docker run`, its name and labels would make the container the runner's, which removes it.
    Option("name", lambda c: c.spec.name, _unsaid, _is_own_name),
    Option("environment", lambda c: {**c.secrets, **c.spec.env}, _env_words, _any),
    Option(
        "labels",
        lambda c: dict(c.spec.labels),
        _unsaid,
        lambda v, spec, _: (v or {}).get(LABEL_JOB_ID) == spec.job_id,
    ),
    Option("working_dir", lambda c: c.spec.workdir, _one("--workdir"), _any),
    # The guard judges each mount by itself.
    Option("mounts", _mounts, _mount_words, _any),
    # A process of the image's own as pid 1 ignores SIGTERM and leaves its orphans unreaped.
    Option("init", lambda _: True, _unsaid, _any),
    Option("privileged", lambda _: False, _unsaid, lambda v, _, __: v is False),
    Option("network_mode", lambda c: c.spec.network, _one("--network"), _is_network),
    Option(
        "security_opt",
        lambda c: ["no-new-privileges"] if c.spec.no_new_privileges else [],
        _each("--security-opt"),
        _is_security,
    ),
    Option(
        "cap_add",
        lambda c: list(c.spec.cap_add),
        _each("--cap-add"),
        lambda v, _, policy: set(v or ()) <= set(policy.cap_add),
    ),
    Option(
        "cap_drop",
        lambda c: list(c.spec.cap_drop),
        _each("--cap-drop"),
        lambda v, _, policy: set(v or ()) >= set(policy.cap_drop),
    ),
    Option(
        "pids_limit",
        lambda c: c.spec.pids_limit,
        _one("--pids-limit"),
        _up_to(lambda policy: policy.pids_limit),
    ),
    Option("entrypoint", _entrypoint, lambda words: _one("--entrypoint")(words[0]), _any),
    Option(
        "user",
        lambda c: c.spec.user,
        _one("--user"),
        lambda v, _, policy: user_is_allowed(v, policy),
    ),
    Option("shm_size", lambda c: c.spec.shm_bytes, _bytes("--shm-size"), _any),
    Option("device_requests", _gpus, _gpu_words, _are_gpus),
    Option(
        "platform",
        lambda c: c.spec.platform if c.api_version >= _PLATFORM_API else None,
        _one("--platform"),
        lambda v, _, __: v is None or isinstance(v, str),
    ),
    Option(
        "nano_cpus",
        lambda c: None if c.spec.cpus is None else round(c.spec.cpus * 10**9),
        _cpu_words,
        _up_to(lambda policy: policy.max_cpus and round(policy.max_cpus * 10**9)),
    ),
    Option("mem_limit", lambda c: c.spec.memory_bytes, _bytes("--memory"), _max_memory),
    # Without a swap limit of the same size, Docker grants as much swap again.
    Option("memswap_limit", lambda c: c.spec.memory_bytes, _bytes("--memory-swap"), _max_memory),
)
"""In the order in which a report shows them. What has no row is nothing that a task may ask for."""


def create_arguments(
    spec: ContainerSpec,
    image: Image,
    api_version: tuple[int, ...],
    secrets: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Keyword arguments for docker-py, which prefect-docker hands on verbatim."""
    creation = Creation(spec, image, api_version, secrets or {})
    values = ((option.key, option.value(creation)) for option in OPTIONS)
    return {key: value for key, value in values if value is not None}
