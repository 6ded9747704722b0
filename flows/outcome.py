"""How an attempt ended, and why: names, classes, and the sentence that says what to do next.

Pure. The outcome is decided once, from the engine's own word, and never rewritten.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from flows.engine.types import ContainerState, Image, signal_of
from flows.engine.usage import Point, Usage
from flows.errors import (
    CapabilityMissing,
    ContainerTaskError,
    EngineRefused,
    ImageError,
    PolicyRefused,
    Rejected,
    RepositoryRejected,
    WorkdirMissing,
    WorkspaceError,
)
from flows.results import Results
from flows.spec import ContainerSpec

KILLED = 128 + signal.SIGKILL

_SIGNAL_ADVICE: dict[int, str] = {
    signal.SIGSEGV: "the program used memory that is not its own; see the end of runner.log",
    signal.SIGILL: "the program has instructions that this host's processor lacks: see whether "
    "the image is made for it",
    signal.SIGABRT: "the program gave itself up; see the end of runner.log for its last words",
    signal.SIGPIPE: "the program wrote to a pipe that nobody read any more; see the end of "
    "runner.log",
}


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
    OUTPUT_MISSING = "output-missing"


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

    `error` is one sentence or None; `cleanup_error` is reported beside the outcome and never
    changes it. `stages` has the seconds that pull, create, run and collect took; `points`, its use
    of memory and CPU over time, as far as the process that ended it saw it; `results` is what the
    container left, None where it never ran.
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

    @property
    def signal(self) -> int | None:
        """The signal that ended the container's process, as its exit code tells it."""
        return signal_of(self.exit_code)


OVERDUE = Outcome(
    OutcomeName.TIMED_OUT,
    FailureClass.TIMEOUT,
    "took longer than all its limits, and was stopped by the last of them",
    timed_out=True,
    stopped_by=StoppedBy.DEADLINE,
)
_BY_ERROR: tuple[tuple[type[ContainerTaskError], OutcomeName, FailureClass], ...] = (
    (EngineRefused, OutcomeName.REJECTED, FailureClass.LIMITS),
    (CapabilityMissing, OutcomeName.REJECTED, FailureClass.CAPABILITY),
    (RepositoryRejected, OutcomeName.REJECTED, FailureClass.REPOSITORY),
    (WorkdirMissing, OutcomeName.REJECTED, FailureClass.WORKDIR_MISSING),
    (PolicyRefused, OutcomeName.REJECTED, FailureClass.POLICY),
    (Rejected, OutcomeName.REJECTED, FailureClass.PAYLOAD),
    (WorkspaceError, OutcomeName.INFRASTRUCTURE, FailureClass.WORKSPACE),
)


def judge(spec: ContainerSpec, state: ContainerState, stopped_by: StoppedBy) -> Outcome:
    """The outcome of a container that has stopped, from the engine's own word alone."""
    ended = Outcome(
        OutcomeName.SUCCEEDED,
        exit_code=state.exit_code,
        oom_killed=state.oom_killed,
        timed_out=stopped_by is StoppedBy.DEADLINE,
        stopped_by=stopped_by,
        started_at=state.started_at,
        finished_at=state.finished_at,
    )
    if stopped_by is StoppedBy.CANCEL:
        return replace(
            ended,
            name=OutcomeName.CANCELED,
            failure_class=FailureClass.CANCELED,
            error="canceled while its container ran, which was stopped",
        )
    if stopped_by is StoppedBy.ENGINE:
        return replace(
            ended,
            name=OutcomeName.INFRASTRUCTURE,
            failure_class=FailureClass.ENGINE,
            error=f"the Docker Engine stopped while its container ran, and ended it ({_end(state)})"
            ": see on the host why it did",
        )
    if stopped_by is StoppedBy.DEADLINE:
        return replace(
            ended,
            name=OutcomeName.TIMED_OUT,
            failure_class=FailureClass.TIMEOUT,
            error=f"ran longer than its limit of {spec.timeout_seconds} s and was stopped: raise "
            "task.container.timeoutSeconds, or see in runner.log where the time went",
        )
    if state.exit_code == 0:
        return ended
    if state.oom_killed:
        return replace(
            ended,
            name=OutcomeName.OUT_OF_MEMORY,
            failure_class=FailureClass.MEMORY,
            error=_memory_sentence(spec),
        )
    if stopped_by is StoppedBy.OUTSIDE:
        return replace(
            ended,
            name=OutcomeName.FAILED,
            failure_class=FailureClass.EXIT_CODE,
            error=f"{_end(state)}, after somebody outside had sent its container a signal: see who "
            "else uses the engine",
        )
    if state.error:
        return replace(
            ended,
            name=OutcomeName.FAILED,
            failure_class=FailureClass.NOT_STARTED,
            error=f"its container could not be started: {state.error}",
        )
    not_runnable = state.exit_code in (126, 127)
    return replace(
        ended,
        name=OutcomeName.FAILED,
        failure_class=FailureClass.COMMAND_NOT_RUNNABLE if not_runnable else FailureClass.EXIT_CODE,
        error=_exit_sentence(spec, state),
    )


def ended_early(why: StoppedBy) -> Outcome:
    """The outcome of an attempt that was told to end before its container ran."""
    if why is StoppedBy.CANCEL:
        return Outcome(
            OutcomeName.CANCELED, FailureClass.CANCELED, "canceled before its container ran"
        )
    return replace(OVERDUE, error="took longer than all its limits before its container ran")


def missing_workdir(spec: ContainerSpec) -> Outcome:
    return Outcome(
        OutcomeName.FAILED,
        FailureClass.WORKDIR_MISSING,
        f"the image {spec.image} has no folder {spec.workdir}: correct "
        "task.container.workdir, or leave it out to start in the repository",
    )


def _memory_sentence(spec: ContainerSpec) -> str:
    if spec.memory_bytes is None:
        return "ran out of memory, the host's own: set task.container.resources.memory"
    limit = f"{spec.memory_bytes / 1024**2:g} MiB"
    return f"ran out of memory at its limit of {limit}: raise task.container.resources.memory"


def _exit_sentence(spec: ContainerSpec, state: ContainerState) -> str:
    code, program = state.exit_code, (*(spec.entrypoint or ()), *spec.command)[0]
    if code == 127 and len(program.split()) > 1:
        return (
            f"exited 127, as no program has the name {program!r}: in task.container.command, give "
            'each word as a string of its own, or the line to a shell, as in ["sh", "-c", "…"]'
        )
    if code == 127:
        return (
            "exited 127, which usually means that a command was not found: check that "
            f"{spec.command[0]!r}, and what it calls, is in the image {spec.image}"
        )
    if code == 126:
        return (
            "exited 126, which usually means that a file is not executable: check the "
            f"permissions of {spec.command[0]!r} and of what it calls"
        )
    if code == KILLED:
        return (
            f"{_end(state)}; the engine reports no lack of memory: see the end of runner.log, and "
            "on the host who else kills processes"
        )
    return f"{_end(state)}: {advice(state.exit_code)}"


def advice(exit_code: int | None) -> str:
    """What to do about an exit code that means nothing particular."""
    return _SIGNAL_ADVICE.get(signal_of(exit_code) or 0, "see the end of runner.log")


def ending(exit_code: int | None) -> str:
    """`exited 143, ended by SIGTERM`."""
    number = signal_of(exit_code)
    if number is None:
        return f"exited {exit_code}"
    return f"exited {exit_code}, ended by {signal_name(number)}"


def _end(state: ContainerState) -> str:
    return ending(state.exit_code)


def signal_name(number: int) -> str:
    """`SIGTERM` for 15; the number where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def outcome_of(error: ContainerTaskError) -> Outcome:
    """The outcome of a run that an error of this package ended."""
    if isinstance(error, ImageError):
        return Outcome(OutcomeName.IMAGE_ERROR, FailureClass(error.cause.value), str(error))
    for kind, name, failure_class in _BY_ERROR:
        if isinstance(error, kind):
            return Outcome(name, failure_class, str(error))
    return Outcome(OutcomeName.INFRASTRUCTURE, FailureClass.ENGINE, str(error))
