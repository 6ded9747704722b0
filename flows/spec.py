"""The frozen `ContainerSpec`: all of one container, named and labelled before it exists.

Plain data, which prints as JSON, so what a task would do can be read and tested without doing it.
It holds no secret. `flows.payload.compiler` makes it; here are the time limits that follow from it.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Literal

from flows.text import one_line

JOB_ROOT = "/work/agent_jobs"
JOB_ID_PLACEHOLDER = "<job_id>"
ARTIFACT_DIR = "$ARTIFACT_DIR/"
NAME_PREFIX = "mm-task-"
JOB_ID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# An attempt's container, and the one that gives its files back to the worker.
CONTAINER_NAME = rf"{NAME_PREFIX}{JOB_ID}-[0-9]{{1,9}}(?:-files)?"
# Of the volume that shows a container its job's folder, on engines without sub-paths.
RUN_VOLUME_SUFFIX = "-workspace"
LABEL_JOB_ID = "moonmind.job_id"
LABEL_EXPIRES_AT = "moonmind.expires_at"
LABEL_SPEC = "moonmind.spec_sha256"
LABEL_CACHE = "moonmind.cache"
LABEL_CACHE_OWNER = "moonmind.cache_owner"
# The owner of a cache that every run may mount.
EVERYBODY = "*"
LABEL_NETWORK = "moonmind.network"
# What payloads and policies call `bridge`.
TASK_NETWORK = "moonmind-tasks"


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at one flow run: whose container it is, and when the spec was made. `deployment`
    is the run's, as flow and name; empty where it has none."""

    job_id: str
    attempt: int
    worker: str
    now: datetime
    deployment: str = ""


@dataclass(frozen=True, slots=True)
class Mount:
    """What the container sees at `target`: `bind`, the job's own folder at `source` on the engine's
    host; `volume`, the folder `subpath` of a named volume; or `cache`, a whole named volume, which
    belongs to `owner`."""

    kind: Literal["bind", "volume", "cache"]
    source: str
    target: str
    subpath: str = ""
    # The caches of a spec that an earlier version stored have none: see `caches.require_owner`.
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """Files that the task is to leave: a glob below the checkout, or below `$ARTIFACT_DIR/`."""

    path: str
    required: bool = False
    type: Literal["file", "junit"] = "file"


@dataclass(frozen=True, slots=True)
class Owned:
    """Something on an engine that is a job's own: see `is_named_for_its_job`."""

    kind: Literal["container", "volume"]
    name: str
    id: str
    labels: Mapping[str, str]

    @property
    def job_id(self) -> str:
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
        return self.env["ARTIFACT_DIR"]

    @property
    def worker(self) -> str:
        return self.labels["moonmind.worker"]

    @property
    def workdir_is_mounted(self) -> bool:
        """Whether `workdir` lies in a mount, where the image has no say about it."""
        path = PurePosixPath(self.workdir)
        return any(path.is_relative_to(mount.target) for mount in self.mounts)

    def as_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]


def command_summary(command: tuple[str, ...], limit: int = 120) -> str:
    """The command on one line, quoted as a shell would need it, cut at `limit` characters."""
    return one_line(shlex.join(command), limit)


def is_named_for_its_job(name: str, labels: Mapping[str, str]) -> bool:
    """Whether a container has a name that the runner gives to those of the job in its label.

    A label alone says nothing: images hand theirs on to every container that is made of them.
    """
    is_named = name.startswith(f"{NAME_PREFIX}{labels.get(LABEL_JOB_ID)}-")
    return is_named and re.fullmatch(CONTAINER_NAME, name) is not None


def is_expired(labels: Mapping[str, str], now: datetime) -> bool:
    """Whether an object with these labels has outlived its run; unreadable labels never have."""
    try:
        return now > datetime.fromisoformat(labels[LABEL_EXPIRES_AT])
    except (KeyError, ValueError, TypeError):
        return False


# What may lie between the compilation of a spec and its container's removal, beside the pull, the
# time limit and the grace. Past it, whatever is left is nobody's.
EXPIRY_SLACK_SECONDS = 3 * 3600


def seconds_to_live(spec: ContainerSpec, now: datetime) -> float:
    """How long it is to the death date of the container; no clock makes a longer life of it."""
    longest = spec.limit_seconds + EXPIRY_SLACK_SECONDS
    try:
        left = (datetime.fromisoformat(spec.labels[LABEL_EXPIRES_AT]) - now).total_seconds()
    except (KeyError, ValueError, TypeError):
        return longest
    return min(longest, max(0.0, left))


# What the slowest engine that still answers takes to stop a container and to hand out its log.
EXECUTE_SLACK_SECONDS = 300.0
FLOW_SLACK_SECONDS = 600.0
# Of the publication alone, so that a task that used up its time still delivers its results.
PUBLISH_SECONDS = 900.0
# Of these for the upload, so that what is not uploaded by then is told; the sweep goes on with it.
UPLOAD_SECONDS = 840.0
# Somebody waits for the end of a run that is cancelled.
UPLOAD_CANCELED_SECONDS = 10.0


def execute_seconds(spec: ContainerSpec) -> float:
    """How long the execute task may take."""
    return spec.limit_seconds + EXECUTE_SLACK_SECONDS


def flow_seconds(spec: ContainerSpec) -> float:
    """How long the flow waits for the execute task."""
    return spec.limit_seconds + FLOW_SLACK_SECONDS
