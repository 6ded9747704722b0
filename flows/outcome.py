"""Outcomes and failure classes: one table each, and the outcome of a stopped container or an error.

Pure. The outcome is decided once, from the engine's own word, and never rewritten. A new failure
class is a word of `FailureClass`, a row of `FAILURES`, and whoever detects it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple

from flows.engine.types import ContainerState, Image, Point, Usage
from flows.errors import (
    CapabilityMissing,
    ContainerTaskError,
    EngineRefused,
    HostFailed,
    ImageCause,
    ImageError,
    PolicyRefused,
    Rejected,
    RepositoryRejected,
    WorkdirMissing,
    WorkspaceError,
)
from flows.exit_code import KILLED, advice, ending, not_runnable, signal_of
from flows.results import Results
from flows.spec import ContainerSpec


class OutcomeName(StrEnum):
    """How a run ended. Published: users' automations match on these; never rename one."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    OUT_OF_MEMORY = "out-of-memory"
    CANCELED = "canceled"
    REJECTED = "rejected"
    IMAGE_ERROR = "image-error"
    INFRASTRUCTURE = "infrastructure"


class FailureClass(StrEnum):
    """Why, one level finer than the outcome. Published: never rename one."""

    EXIT_CODE = "exit-code"
    COMMAND_NOT_RUNNABLE = "command-not-runnable"
    NOT_STARTED = "not-started"
    WORKDIR_MISSING = "workdir-missing"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    CANCELED = "canceled"
    PAYLOAD = "payload"
    CAPABILITY = "capability"
    POLICY = "policy"
    REPOSITORY = "repository"
    LIMITS = "limits"
    IMAGE = "image"
    IMAGE_NOT_FOUND = "not-found"
    IMAGE_DENIED = "denied"
    IMAGE_RATE_LIMITED = "rate-limited"
    IMAGE_UNREACHABLE = "unreachable"
    IMAGE_WRONG_PLATFORM = "wrong-platform"
    IMAGE_DISK_FULL = "disk-full"
    IMAGE_CORRUPT = "corrupt"
    ENGINE = "engine"
    WORKSPACE = "workspace"
    WORKER = "worker"
    HOST = "host"
    OUTPUT_MISSING = "output-missing"


class OutcomeKind(NamedTuple):
    """What holds for all runs of an outcome: the heading of their report, the type and name of
    their final state (the type's own where None), and the key of `retry` that tries them again."""

    heading: str
    state_type: Literal["COMPLETED", "FAILED", "CANCELLED"] = "FAILED"
    state_name: str | None = None
    retry: Literal["infrastructure", "image", "exitCodes"] | None = None


OUTCOMES: Mapping[OutcomeName, OutcomeKind] = {
    OutcomeName.SUCCEEDED: OutcomeKind("Succeeded", "COMPLETED"),
    OutcomeName.FAILED: OutcomeKind("Failed", retry="exitCodes"),
    OutcomeName.TIMED_OUT: OutcomeKind("Stopped at its time limit", state_name="TimedOut"),
    OutcomeName.OUT_OF_MEMORY: OutcomeKind("Ran out of memory", state_name="OutOfMemory"),
    OutcomeName.CANCELED: OutcomeKind("Canceled", "CANCELLED"),
    OutcomeName.REJECTED: OutcomeKind("Rejected", state_name="Rejected"),
    OutcomeName.IMAGE_ERROR: OutcomeKind(
        "Its image could not be had", state_name="ImageError", retry="image"
    ),
    OutcomeName.INFRASTRUCTURE: OutcomeKind(
        "The host failed, not the task", state_name="InfrastructureError", retry="infrastructure"
    ),
}


class Failure(NamedTuple):
    """A failure class under its outcome; the error that means it, and the name of the state of the
    stage that it ends, where these are its own."""

    failure_class: FailureClass
    outcome: OutcomeName
    error: type[ContainerTaskError] | None = None
    stage_name: str | None = None


FAILURES = (
    Failure(FailureClass.EXIT_CODE, OutcomeName.FAILED),
    Failure(FailureClass.COMMAND_NOT_RUNNABLE, OutcomeName.FAILED),
    Failure(FailureClass.NOT_STARTED, OutcomeName.FAILED),
    Failure(FailureClass.WORKDIR_MISSING, OutcomeName.FAILED),
    Failure(FailureClass.OUTPUT_MISSING, OutcomeName.FAILED, stage_name="Output missing"),
    Failure(FailureClass.TIMEOUT, OutcomeName.TIMED_OUT),
    Failure(FailureClass.MEMORY, OutcomeName.OUT_OF_MEMORY),
    Failure(FailureClass.CANCELED, OutcomeName.CANCELED),
    Failure(FailureClass.PAYLOAD, OutcomeName.REJECTED, Rejected),
    Failure(FailureClass.CAPABILITY, OutcomeName.REJECTED, CapabilityMissing),
    Failure(FailureClass.POLICY, OutcomeName.REJECTED, PolicyRefused),
    Failure(FailureClass.REPOSITORY, OutcomeName.REJECTED, RepositoryRejected),
    Failure(FailureClass.LIMITS, OutcomeName.REJECTED, EngineRefused),
    Failure(FailureClass.WORKDIR_MISSING, OutcomeName.REJECTED, WorkdirMissing),
    *(Failure(FailureClass(cause), OutcomeName.IMAGE_ERROR) for cause in ImageCause),
    Failure(FailureClass.ENGINE, OutcomeName.INFRASTRUCTURE, ContainerTaskError),
    Failure(FailureClass.WORKSPACE, OutcomeName.INFRASTRUCTURE, WorkspaceError),
    Failure(FailureClass.WORKER, OutcomeName.INFRASTRUCTURE),
    Failure(FailureClass.HOST, OutcomeName.INFRASTRUCTURE, HostFailed),
)
_BY_ERROR = {row.error: row for row in FAILURES if row.error}
# Of a class under two outcomes, the first.
FAILURE_OF = {row.failure_class: row for row in reversed(FAILURES)}


class StoppedBy(StrEnum):
    """Who ended a container that ran. Published: never rename one."""

    CONTAINER = "container"
    DEADLINE = "deadline"
    CANCEL = "cancel"
    ENGINE = "engine"
    OUTSIDE = "outside"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one attempt, decided once.

    `error` is one sentence; `cleanup_error` is reported beside the outcome and never changes it.
    `stages` has the seconds that pull, create, run and collect took; `points` the use over time, as
    far as it was seen; `results` is None where the container never ran. An `unreached` one may run
    on: its engine was out of reach.
    """

    name: OutcomeName
    failure_class: FailureClass | None = None
    error: str | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    timed_out: bool = False
    stopped_by: StoppedBy | None = None
    image: Image | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cleanup_error: str | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    points: tuple[Point, ...] = ()
    log_reconnects: int = 0
    log_complete: bool = True
    results: Results | None = None
    unreached: bool = False

    @property
    def signal(self) -> int | None:
        """The signal that ended the container's process, as its exit code tells it."""
        return signal_of(self.exit_code)


def failed(failure_class: FailureClass, error: str, stopped_by: StoppedBy | None = None) -> Outcome:
    """The outcome of a failure class; `error` is one sentence."""
    outcome = FAILURE_OF[failure_class].outcome
    timed_out = stopped_by is StoppedBy.DEADLINE
    return Outcome(outcome, failure_class, error, timed_out=timed_out, stopped_by=stopped_by)


UNHEARD = "canceled while the engine was out of reach; its container is stopped when it is back"
# Ends the message of any other final state that was set while the container may run on.
LEFT = "What is left of it is on its host"
CANCELED = failed(
    FailureClass.CANCELED, "canceled while its container ran, which was stopped", StoppedBy.CANCEL
)
OVERDUE = failed(
    FailureClass.TIMEOUT,
    "took longer than all its limits, and was stopped by the last of them",
    StoppedBy.DEADLINE,
)
LOST = failed(
    FailureClass.ENGINE,
    "its container vanished while no process watched over it: somebody removed it, or the engine "
    "lost it",
)
TAKEN = failed(
    FailureClass.WORKER,
    "another host took the run over while this one was silent",
    StoppedBy.OUTSIDE,
)
SUSPENDED = failed(
    FailureClass.ENGINE,
    "somebody suspended the run, and its engine cannot pause a container: it was stopped, and "
    "another attempt begins when the run is resumed",
    StoppedBy.CANCEL,
)
UNREADABLE = failed(
    FailureClass.WORKSPACE,
    "what this host had noted of it cannot be read: another version wrote it, or the host lost "
    "power meanwhile; what was left of its container was removed",
    StoppedBy.OUTSIDE,
)
ABANDONED = failed(
    FailureClass.WORKER,
    "the process that watched over it died too often to start it again",
    StoppedBy.OUTSIDE,
)


def ended_early(why: StoppedBy) -> Outcome:
    """The outcome of an attempt that was told to end before its container ran."""
    if why is StoppedBy.CANCEL:
        return failed(FailureClass.CANCELED, "canceled before its container ran")
    return replace(OVERDUE, error="took longer than all its limits before its container ran")


def unreached(error: ContainerTaskError) -> Outcome:
    """Of an attempt whose engine was waited for in vain."""
    sentence = f"its engine was out of reach for too long; its container may still run: {error}"
    return replace(failed(FailureClass.ENGINE, sentence), unreached=True)


def missing_workdir(spec: ContainerSpec) -> Outcome:
    """The outcome of a container whose image lacks the working directory."""
    return failed(
        FailureClass.WORKDIR_MISSING,
        f"the image {spec.image} has no folder {spec.workdir}: correct "
        "task.container.workdir, or leave it out to start in the repository",
    )


def outcome_of(error: ContainerTaskError) -> Outcome:
    """The outcome of a run that an error of this package ended."""
    if isinstance(error, ImageError):
        return Outcome(OutcomeName.IMAGE_ERROR, FailureClass(error.cause), str(error))
    row = next(_BY_ERROR[kind] for kind in type(error).__mro__ if kind in _BY_ERROR)
    return Outcome(row.outcome, row.failure_class, str(error))


def container_outcome(spec: ContainerSpec, state: ContainerState, stopped_by: StoppedBy) -> Outcome:
    """The outcome of a container that has stopped, from the engine's own word alone."""
    why = _why_not(spec, state, stopped_by)
    outcome = failed(*why) if why else Outcome(OutcomeName.SUCCEEDED)
    return replace(
        outcome,
        exit_code=state.exit_code,
        oom_killed=state.oom_killed,
        timed_out=stopped_by is StoppedBy.DEADLINE,
        stopped_by=stopped_by,
        started_at=state.started_at,
        finished_at=state.finished_at,
    )


def _why_not(
    spec: ContainerSpec, state: ContainerState, stopped_by: StoppedBy
) -> tuple[FailureClass, str] | None:
    end = ending(state.exit_code)
    if stopped_by is StoppedBy.CANCEL:
        return FailureClass.CANCELED, CANCELED.error or ""
    if stopped_by is StoppedBy.ENGINE:
        return FailureClass.ENGINE, (
            f"the Docker Engine stopped while its container ran, and ended it ({end}): see on the "
            "host why it did"
        )
    if stopped_by is StoppedBy.DEADLINE:
        return FailureClass.TIMEOUT, (
            f"ran longer than its limit of {spec.timeout_seconds} s and was stopped: raise "
            "task.container.timeoutSeconds, or see in runner.log where the time went"
        )
    if state.exit_code == 0:
        return None
    if state.oom_killed:
        return FailureClass.MEMORY, _memory_sentence(spec)
    if stopped_by is StoppedBy.OUTSIDE:
        return FailureClass.EXIT_CODE, (
            f"{end}, after somebody outside had sent its container a signal: see who else uses the "
            "engine"
        )
    if state.error:
        return FailureClass.NOT_STARTED, f"its container could not be started: {state.error}"
    if state.exit_code in (126, 127):
        return FailureClass.COMMAND_NOT_RUNNABLE, not_runnable(state.exit_code, spec)
    if state.exit_code == KILLED:
        return FailureClass.EXIT_CODE, (
            f"{end}; the engine reports no lack of memory: see the end of runner.log, and on the "
            "host who else kills processes"
        )
    return FailureClass.EXIT_CODE, f"{end}: {advice(state.exit_code)}"


def _memory_sentence(spec: ContainerSpec) -> str:
    if spec.memory_bytes is None:
        return "ran out of memory, the host's own: set task.container.resources.memory"
    limit = f"{spec.memory_bytes / 1024**2:g} MiB"
    return f"ran out of memory at its limit of {limit}: raise task.container.resources.memory"
