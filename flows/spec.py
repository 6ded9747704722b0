"""What will run, decided once: `compile_spec` turns a payload into a frozen `ContainerSpec`.

Pure and standard library only: no clock, no host, no Docker. The spec prints as JSON, so what a
task would do can be read and tested without doing it. It holds no secret.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from flows.payload.fields import JOB_ID_PLACEHOLDER, JOB_ROOT, memory_bytes
from flows.payload.policy_check import require_allowed
from flows.payload.repository import Remote
from flows.text import one_line

if TYPE_CHECKING:
    from flows.payload.container import Container
    from flows.payload.models import TaskPayload
    from flows.payload.policy import Policy

# What may lie between the compilation of a spec and its container's removal, beside the pull, the
# time limit and the grace. Past it, whatever is left is nobody's.
EXPIRY_SLACK_SECONDS = 3 * 3600

NAME_PREFIX = "mm-task-"
LABEL_JOB_ID = "moonmind.job_id"
LABEL_EXPIRES_AT = "moonmind.expires_at"
LABEL_SPEC = "moonmind.spec_sha256"
LABEL_CACHE = "moonmind.cache"


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at one flow run: whose container it is, and when the spec was made."""

    job_id: str
    attempt: int
    worker: str
    now: datetime


@dataclass(frozen=True, slots=True)
class Mount:
    """What the container sees at `target`.

    `kind` is `bind` (`source` is a path on the engine's host, always the job's own folder),
    `volume` (the folder `subpath` of the named volume `source`), or `cache` (the whole named
    volume `source`).
    """

    kind: Literal["bind", "volume", "cache"]
    source: str
    target: str
    subpath: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """Files that the task is to leave: a glob below the checkout, or below `$ARTIFACT_DIR/`.

    Those of the type `junit` are read as test reports.
    """

    path: str
    required: bool = False
    type: Literal["file", "junit"] = "file"


@dataclass(frozen=True, slots=True)
class Owned:
    """Something on an engine that carries a job's label."""

    kind: Literal["container", "volume", "network"]
    name: str
    id: str
    labels: Mapping[str, str]

    @property
    def job_id(self) -> str:
        """Whose it is."""
        return self.labels[LABEL_JOB_ID]


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Everything about one container, named and labelled before it exists.

    `entrypoint` and `user` are the image's own where they are None; `secrets` has the name of a
    Secret block for each environment variable, never a value.
    """

    job_id: str
    attempt: int
    name: str
    image: str
    pull: Literal["if-missing", "always", "never"]
    command: tuple[str, ...]
    workdir: str
    env: Mapping[str, str]
    mounts: tuple[Mount, ...]
    artifacts_subdir: str
    pull_timeout_seconds: int
    timeout_seconds: int
    stop_grace_seconds: int
    cpus: float | None
    memory_bytes: int | None
    pids_limit: int
    no_new_privileges: bool
    labels: Mapping[str, str]
    # With defaults, as what an earlier version noted of a run has none of these.
    entrypoint: tuple[str, ...] | None = None
    user: str | None = None
    network: str = "bridge"
    shm_bytes: int | None = None
    gpus: int | Literal["all"] | None = None
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    platform: str | None = None
    outputs: tuple[Output, ...] = ()

    @property
    def limit_seconds(self) -> int:
        """The longest that everything between the pull and the container's end may take."""
        return self.pull_timeout_seconds + self.timeout_seconds + self.stop_grace_seconds

    @property
    def artifact_dir(self) -> str:
        """The container's `ARTIFACT_DIR`."""
        return self.env["ARTIFACT_DIR"]

    @property
    def worker(self) -> str:
        """The host that runs it."""
        return self.labels["moonmind.worker"]

    @property
    def workdir_is_mounted(self) -> bool:
        """Whether `workdir` lies in a mount, where the image has no say about it."""
        path = PurePosixPath(self.workdir)
        return any(path.is_relative_to(mount.target) for mount in self.mounts)

    def as_json(self) -> dict[str, Any]:
        """The spec as plain JSON values."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]


def compile_spec(
    payload: "TaskPayload",
    policy: "Policy",
    mount: Mount,
    run: Run,
    *,
    default_timeout_seconds: int,
) -> ContainerSpec:
    """Decide everything about the container of one attempt.

    `mount` shows the job's folder, and no other, to the container. What the policy has a ceiling
    for and the payload says nothing of gets the ceiling. Raises `PolicyRefused` where the payload
    asks for what the policy does not allow.
    """
    container = payload.task.container
    if container.image is None or container.command is None:
        raise ValueError("only a payload with an enabled container compiles")
    require_allowed(payload, policy)
    job_dir = f"{JOB_ROOT}/{run.job_id}"
    limits = container.resources
    timeout = container.timeout_seconds or min(
        default_timeout_seconds, policy.max_timeout_seconds or default_timeout_seconds
    )
    grace = container.stop_grace_seconds
    if grace is None:
        grace = policy.stop_grace_seconds
    repository = Remote.parse(payload.repository).display if payload.repository else ""
    decided: dict[str, Any] = {
        "job_id": run.job_id,
        "image": container.image,
        "pull": container.pull,
        "platform": container.platform,
        "command": container.command,
        "workdir": _workdir(container, job_dir, run.job_id),
        "env": {
            **container.env,
            "JOB_ID": run.job_id,
            "REPOSITORY": repository,
            "ARTIFACT_DIR": f"{job_dir}/artifacts/{container.artifacts_subdir}",
        },
        "mounts": (
            mount,
            *(Mount("cache", volume.name, volume.target) for volume in container.cache_volumes),
        ),
        "artifacts_subdir": container.artifacts_subdir,
        "pull_timeout_seconds": container.pull_timeout_seconds,
        "timeout_seconds": timeout,
        "stop_grace_seconds": grace,
        "cpus": limits.cpus or policy.max_cpus,
        "memory_bytes": memory_bytes(limits.memory) if limits.memory else policy.max_memory_bytes,
        "pids_limit": limits.pids or policy.pids_limit,
        "no_new_privileges": policy.no_new_privileges,
        "entrypoint": container.entrypoint,
        "user": container.user or policy.user,
        "network": container.network or policy.network,
        "shm_bytes": memory_bytes(limits.shm) if limits.shm else None,
        "gpus": limits.gpus,
        "cap_add": tuple(policy.cap_add),
        "cap_drop": tuple(policy.cap_drop),
        "secrets": container.secrets,
        "outputs": tuple(Output(each.path, each.required, each.type) for each in container.outputs),
    }
    return ContainerSpec(
        **decided,
        attempt=run.attempt,
        name=container_name(run),
        labels={
            LABEL_JOB_ID: run.job_id,
            "moonmind.repository": repository,
            "moonmind.runtime": "container",
            "moonmind.attempt": str(run.attempt),
            "moonmind.worker": run.worker,
            "moonmind.created_at": run.now.isoformat(),
            LABEL_EXPIRES_AT: _expiry(
                run.now, container.pull_timeout_seconds + timeout + grace
            ).isoformat(),
            LABEL_SPEC: _fingerprint(decided),
        },
    )


def container_name(run: Run) -> str:
    """The one name of an attempt's container, known before it exists."""
    return f"{NAME_PREFIX}{run.job_id}-{run.attempt}"


def command_summary(command: tuple[str, ...], limit: int = 120) -> str:
    """The command on one line, quoted as a shell would need it, cut at `limit` characters.

    What would not show, or would turn the line around it, is shown as its escape.
    """
    return one_line(shlex.join(command), limit)


def is_expired(labels: Mapping[str, str], now: datetime) -> bool:
    """Whether an object with these labels has outlived its run; unreadable labels never have."""
    try:
        return now > datetime.fromisoformat(labels[LABEL_EXPIRES_AT])
    except (KeyError, ValueError, TypeError):
        return False


def _workdir(container: "Container", job_dir: str, job_id: str) -> str:
    if container.workdir is None:
        return f"{job_dir}/repo"
    return container.workdir.replace(JOB_ID_PLACEHOLDER, job_id)


def _expiry(now: datetime, limit_seconds: int) -> datetime:
    return now + timedelta(seconds=limit_seconds + EXPIRY_SLACK_SECONDS)


def _fingerprint(decided: dict[str, Any]) -> str:
    """The same for every attempt at the same task: a running container can be recognised."""
    plain = decided | {
        key: [asdict(each) for each in decided[key]] for key in ("mounts", "outputs")
    }
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
