"""Run one container: the contract of an engine, the order of its steps, and the outcome.

Knows no Docker and no Prefect. `run` is the only caller of an engine's steps for a task; whatever
happens in between, it destroys what the spec names before it returns.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from flows.errors import (
    CapabilityMissing,
    ContainerTaskError,
    EngineError,
    EngineRefused,
    ImageError,
    Rejected,
    RepositoryRejected,
    WorkdirMissing,
    WorkspaceError,
)
from flows.spec import ContainerSpec

_KILLED = 128 + 9
_OOM_NEWS_SECONDS = 0.2


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
    WORKDIR_MISSING = "workdir-missing"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    CANCELED = "canceled"
    PAYLOAD = "payload"
    CAPABILITY = "capability"
    REPOSITORY = "repository"
    LIMITS = "limits"
    IMAGE = "image"
    ENGINE = "engine"
    WORKSPACE = "workspace"


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is present on the engine. `digest` is empty for one that was never pulled."""

    id: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What a fresh inspect says. `error` is the engine's own word on a failed start."""

    running: bool
    exit_code: int | None
    oom_killed: bool
    error: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one attempt, decided once.

    `error` is one sentence or None; `cleanup_error` is reported beside the outcome and never
    changes it.
    """

    name: OutcomeName
    failure_class: FailureClass | None = None
    error: str | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    timed_out: bool = False
    image: Image | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cleanup_error: str | None = None


class Sink(Protocol):
    """Takes container output as it comes. Called from any one thread at a time; never raises."""

    def write(self, chunk: bytes) -> None:
        """Take the next bytes of the merged stdout and stderr."""


class Engine(Protocol):
    """What runs containers. Every method takes the spec; none returns a handle.

    Each method raises `EngineError` (or a subclass) and nothing else, and may be called from any
    process: names are known before the objects exist.
    """

    async def pull(self, spec: ContainerSpec) -> Image:
        """Make the image present as `spec.pull` says. Raises `ImageError`, also where the
        registry reports the failure in the middle of a successful response."""

    async def create(self, spec: ContainerSpec, image: Image) -> None:
        """Create the container, and what it needs, without starting it.

        Raises `EngineRefused` where the engine will not make it as specified, `Rejected` where
        it would mount what is not the task's; whatever was made is `destroy`'s to remove."""

    async def missing_workdir(self, spec: ContainerSpec) -> bool:
        """Whether the created container's image has no folder at `spec.workdir`."""

    def tail(self, spec: ContainerSpec, sink: Sink) -> AbstractAsyncContextManager[None]:
        """Copy the container's output to `sink`.

        Entered between `create` and `start`, nothing is lost; left after the container has
        stopped, everything has been written. Order is kept. Bytes arrive unchanged."""

    async def start(self, spec: ContainerSpec) -> None:
        """Start the created container. A command that cannot be run is no error: `inspect` then
        tells of a container that has ended with 126 or 127 and why."""

    async def wait(self, spec: ContainerSpec, seconds: float) -> bool:
        """Wait until the container has stopped, at most `seconds`; whether it has.

        Raises `ContainerGone` where there is none any more."""

    async def stop(self, spec: ContainerSpec) -> None:
        """SIGTERM, `spec.stop_grace_seconds`, SIGKILL; returns when the container has stopped.
        Safe on one that has stopped already or is gone."""

    async def inspect(self, spec: ContainerSpec) -> ContainerState:
        """The state as the engine tells it now, never a remembered one.

        Raises `ContainerGone` where there is none."""

    async def destroy(self, spec: ContainerSpec) -> None:
        """Remove everything that `create` makes for this spec, running or not.

        Safe at any time, any number of times, also after a `create` that failed half-way or in
        another process. Never touches an object without this job's label."""


_BY_ERROR: tuple[tuple[type[ContainerTaskError], OutcomeName, FailureClass], ...] = (
    (ImageError, OutcomeName.IMAGE_ERROR, FailureClass.IMAGE),
    (EngineRefused, OutcomeName.REJECTED, FailureClass.LIMITS),
    (CapabilityMissing, OutcomeName.REJECTED, FailureClass.CAPABILITY),
    (RepositoryRejected, OutcomeName.REJECTED, FailureClass.REPOSITORY),
    (WorkdirMissing, OutcomeName.REJECTED, FailureClass.WORKDIR_MISSING),
    (Rejected, OutcomeName.REJECTED, FailureClass.PAYLOAD),
    (WorkspaceError, OutcomeName.INFRASTRUCTURE, FailureClass.WORKSPACE),
)


async def run(engine: Engine, spec: ContainerSpec, sink: Sink) -> Outcome:
    """Run the container of `spec` to its end and leave nothing of it behind.

    Returns an outcome for everything a task or an engine can do; raises only what cancels the
    caller, after the container is gone.
    """
    image: Image | None = None
    try:
        image = await engine.pull(spec)
        await engine.create(spec, image)
        outcome = await _watch(engine, spec, sink)
    except (EngineError, Rejected) as error:
        outcome = outcome_of(error)
    except BaseException:
        await _destroy(engine, spec)
        raise
    return replace(outcome, image=image, cleanup_error=await _destroy(engine, spec))


async def _watch(engine: Engine, spec: ContainerSpec, sink: Sink) -> Outcome:
    if not spec.workdir_is_mounted and await engine.missing_workdir(spec):
        return Outcome(
            OutcomeName.FAILED,
            FailureClass.WORKDIR_MISSING,
            f"the image {spec.image} has no folder {spec.workdir}: correct "
            "task.container.workdir, or leave it out to start in the repository",
        )
    async with engine.tail(spec, sink):
        await engine.start(spec)
        timed_out = not await engine.wait(spec, spec.timeout_seconds)
        if timed_out:
            await engine.stop(spec)
    return judge(spec, await _final_state(engine, spec), timed_out=timed_out)


async def _final_state(engine: Engine, spec: ContainerSpec) -> ContainerState:
    state = await engine.inspect(spec)
    if state.exit_code == _KILLED and not state.oom_killed:
        # The engine hears of a memory kill by another way than of the exit, at times a little
        # later; which it was, only the engine may say.
        await asyncio.sleep(_OOM_NEWS_SECONDS)
        state = await engine.inspect(spec)
    return state


def judge(spec: ContainerSpec, state: ContainerState, *, timed_out: bool) -> Outcome:
    """The outcome of a container that has stopped, from the engine's own word alone."""
    ended = Outcome(
        OutcomeName.SUCCEEDED,
        exit_code=state.exit_code,
        oom_killed=state.oom_killed,
        timed_out=timed_out,
        started_at=state.started_at,
        finished_at=state.finished_at,
    )
    if timed_out:
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
        limit = f"{spec.memory_bytes / 1024**2:g} MiB" if spec.memory_bytes else "the host's"
        return replace(
            ended,
            name=OutcomeName.OUT_OF_MEMORY,
            failure_class=FailureClass.MEMORY,
            error=f"ran out of memory at its limit of {limit}: raise "
            "task.container.resources.memory",
        )
    not_runnable = state.exit_code in (126, 127)
    return replace(
        ended,
        name=OutcomeName.FAILED,
        failure_class=FailureClass.COMMAND_NOT_RUNNABLE if not_runnable else FailureClass.EXIT_CODE,
        error=_exit_sentence(spec, state),
    )


def _exit_sentence(spec: ContainerSpec, state: ContainerState) -> str:
    code, program = state.exit_code, spec.command[0]
    if code == 127:
        return (
            f"exited 127, which means command not found: check that {program!r}, and what it "
            f"calls, is in the image {spec.image}"
        )
    if code == 126:
        return f"exited 126, which means not executable: check the permissions of {program!r}"
    if code == _KILLED:
        return (
            "exited 137, killed by SIGKILL; the engine reports no lack of memory: see the end of "
            "runner.log, and on the host who else kills processes"
        )
    if code is not None and code > 128 and code - 128 <= 64:
        return f"exited {code}, ended by signal {code - 128}: see the end of runner.log"
    return f"exited {code}: see the end of runner.log"


def outcome_of(error: ContainerTaskError) -> Outcome:
    """The outcome of a run that an error of this package ended."""
    for kind, name, failure_class in _BY_ERROR:
        if isinstance(error, kind):
            return Outcome(name, failure_class, str(error))
    return Outcome(OutcomeName.INFRASTRUCTURE, FailureClass.ENGINE, str(error))


async def _destroy(engine: Engine, spec: ContainerSpec) -> str | None:
    """Remove the container even while the caller is being cancelled; say what kept it."""
    removal = asyncio.ensure_future(engine.destroy(spec))
    while not removal.done():
        try:
            await asyncio.shield(removal)
        except asyncio.CancelledError:
            # Cancelled again while cleaning up: the removal goes on and is waited for.
            continue
        except EngineError:
            break
    error = removal.exception()
    return str(error) if error else None
