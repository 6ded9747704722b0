"""Docker's options for a container, one row each: what a spec sets it to, how `docker run` says it,
and which values the guard lets pass. Pure; a further option is a further row.
"""

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
from flows.spec import JOB_ROOT, TASK_NETWORK, ContainerSpec

# The first API version that takes the platform of a container.
_PLATFORM_API = (1, 41)
_IMAGE_ID = re.compile(r"sha256:[a-f0-9]{64}")
_LONG_COUNT = 5
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
    `is_allowed` checks the value itself, or None where there is none, whatever decided it.
    """

    key: str
    value: Callable[[Creation], Any]
    words: Callable[[Any], Words]
    is_allowed: Callable[[Any, Policy], bool]


def _unsaid(_value: object) -> Words:
    return iter(())


def _one(name: str) -> Callable[[object], Words]:
    return lambda value: iter([(name, str(value))])


def _each(name: str) -> Callable[[list[str]], Words]:
    return lambda values: ((name, value) for value in values)


def _size_words(name: str) -> Callable[[int], Words]:
    def words(number: int) -> Words:
        units = ((1024**3, "g"), (1024**2, "m"), (1024, "k"))
        exact = (f"{number // each}{unit}" for each, unit in units if number % each == 0)
        yield name, next(exact, str(number))

    return words


def _env_words(variables: Mapping[str, str]) -> Words:
    return (("--env", f"{name}={value}") for name, value in variables.items())


def _cpu_words(nano_cpus: int) -> Words:
    yield "--cpus", f"{nano_cpus / 1e9:.9f}".rstrip("0").rstrip(".")


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


def _mounts(made: Creation) -> list[Mapping[str, object]]:
    return [mount_arguments(made.spec, each, made.api_version) for each in made.spec.mounts]


def _environment(made: Creation) -> dict[str, str]:
    """With `safe.directory` for the checkout, which belongs to the worker: git reads no repository
    of another user's."""
    spec, given = made.spec, {**made.secrets, **made.spec.env}
    count = given.get("GIT_CONFIG_COUNT", made.image.git_config_count) or "0"
    is_count = count.isascii() and count.isdecimal() and len(count) < _LONG_COUNT
    key, value = f"GIT_CONFIG_KEY_{count}", f"GIT_CONFIG_VALUE_{count}"
    is_secret = "GIT_CONFIG_COUNT" in spec.secrets
    if not spec.env.get("REPOSITORY") or not is_count or is_secret or key in given:
        return given
    folder = f"{JOB_ROOT}/{spec.job_id}/repo"
    more = {"GIT_CONFIG_COUNT": str(int(count) + 1), key: "safe.directory", value: folder}
    return given | more


def _entrypoint(made: Creation) -> list[str] | None:
    words = made.spec.entrypoint
    # Docker takes an empty list for "the image's own".
    return None if words is None else list(words) or [""]


def _gpus(made: Creation) -> list[Mapping[str, object]] | None:
    count = -1 if made.spec.gpus == "all" else made.spec.gpus
    return None if count is None else [{"count": count, "capabilities": [["gpu"]]}]


def _network(made: Creation) -> str:
    # Docker's own network of the name lets its containers reach each other.
    return TASK_NETWORK if made.spec.network == "bridge" else made.spec.network


def _network_words(value: str) -> Words:
    # For a person's container, which needs no network of the runner's.
    yield "--network", "bridge" if value == TASK_NETWORK else value


def _is_network(value: str | None, policy: Policy) -> bool:
    named = "bridge" if value == TASK_NETWORK else value
    try:
        name = network(named or "host")
    except ValueError:
        return False
    if value == "bridge" or name != named:
        return False
    return name == policy.network or is_allowed([name], policy.allowed_networks)


def _are_gpus(requests: list[Mapping[str, Any]] | None, policy: Policy) -> bool:
    return all(
        request.keys() == {"count", "capabilities"}
        and request["capabilities"] == [["gpu"]]
        and (policy.max_gpus is None or 0 < request["count"] <= policy.max_gpus)
        for request in requests or []
    )


def _up_to(most: float | None, value: float | None) -> bool:
    return most is None or (value is not None and 0 < value <= most)


def _free(_value: object, _policy: Policy) -> bool:
    return True


OPTIONS = (
    # By id, so that no pull can change it.
    Option("image", lambda c: c.image.id, _unsaid, lambda v, _: bool(_IMAGE_ID.fullmatch(v or ""))),
    Option("command", lambda c: list(c.spec.command), _unsaid, _free),
    # In `docker run`, name and labels would make the container the runner's, which removes it. The
    # guard compares them with the spec.
    Option("name", lambda c: c.spec.name, _unsaid, _free),
    Option("environment", _environment, _env_words, _free),
    # Or docker-py puts the proxies of the worker's Docker configuration, passwords included, into
    # the environment, after the guard has looked at it.
    Option("use_config_proxy", lambda _: False, _unsaid, lambda v, _: v is False),
    Option("labels", lambda c: dict(c.spec.labels), _unsaid, _free),
    Option("working_dir", lambda c: c.spec.workdir, _one("--workdir"), _free),
    # The guard compares each with the spec.
    Option("mounts", _mounts, _mount_words, _free),
    # A process of the image's own as pid 1 ignores SIGTERM and leaves its orphans unreaped.
    Option("init", lambda _: True, _unsaid, _free),
    Option("privileged", lambda _: False, _unsaid, lambda v, _: v is False),
    Option("network_mode", _network, _network_words, _is_network),
    Option(
        "security_opt",
        lambda c: ["no-new-privileges"] if c.spec.no_new_privileges else [],
        _each("--security-opt"),
        lambda v, p: v == ["no-new-privileges"] if p.no_new_privileges else not v,
    ),
    Option(
        "cap_add",
        lambda c: list(c.spec.cap_add),
        _each("--cap-add"),
        lambda v, p: set(v or ()) <= set(p.cap_add),
    ),
    Option(
        "cap_drop",
        lambda c: list(c.spec.cap_drop),
        _each("--cap-drop"),
        lambda v, p: set(v or ()) >= set(p.cap_drop),
    ),
    Option(
        "pids_limit",
        lambda c: c.spec.pids_limit,
        _one("--pids-limit"),
        lambda v, p: _up_to(p.pids_limit, v),
    ),
    Option("entrypoint", _entrypoint, lambda words: _one("--entrypoint")(words[0]), _free),
    Option("user", lambda c: c.spec.user, _one("--user"), user_is_allowed),
    Option("shm_size", lambda c: c.spec.shm_bytes, _size_words("--shm-size"), _free),
    Option("device_requests", _gpus, _gpu_words, _are_gpus),
    Option(
        "platform",
        lambda c: c.spec.platform if c.api_version >= _PLATFORM_API else None,
        _one("--platform"),
        lambda v, _: v is None or isinstance(v, str),
    ),
    Option(
        "nano_cpus",
        lambda c: None if c.spec.cpus is None else round(c.spec.cpus * 10**9),
        _cpu_words,
        lambda v, p: _up_to(p.max_cpus and round(p.max_cpus * 10**9), v),
    ),
    Option(
        "mem_limit",
        lambda c: c.spec.memory_bytes,
        _size_words("--memory"),
        lambda v, p: _up_to(p.max_memory_bytes, v),
    ),
    # Without a swap limit of the same size, Docker grants as much swap again.
    Option(
        "memswap_limit",
        lambda c: c.spec.memory_bytes,
        _size_words("--memory-swap"),
        lambda v, p: _up_to(p.max_memory_bytes, v),
    ),
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
