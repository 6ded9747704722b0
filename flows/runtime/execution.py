"""Run one container: the order of its steps, its deadline, and the outcome.

Knows no Docker and no Prefect. `run` is the only caller of an engine's steps for a task; whatever
happens in between, it destroys what the spec names before it returns.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from flows.engine.contract import Engine, Measured, Sink
from flows.engine.images.failures import overdue
from flows.engine.images.pull import PullOptions
from flows.engine.types import Image, thinned
from flows.errors import EngineError, EngineUnavailable, Rejected, WorkspaceError
from flows.outcome import Outcome, StoppedBy, ended_early, missing_workdir, outcome_of
from flows.runtime.cancellation import Cancellation, CancellationRequested, Reason
from flows.runtime.ending import (
    Collect,
    destroy,
    read_outcome,
    retry_while_unavailable,
    with_results,
)
from flows.spec import ContainerSpec
from flows.threads import apart, to_the_end

T = TypeVar("T")
# Raises a `ContainerTaskError`.
BeforeCreate = Callable[[Image], Coroutine[Any, Any, None]]
_ABSENCES = 1000
# As many as a chart can show; they are in the attempt store, which is read and written often.
_KEPT_POINTS = 240
# What an engine still makes after that is left to the sweep.
_HALF_DONE_SECONDS = 10.0


class Observer:
    """Called before each step that leaves a trace, so that another process can go on."""

    def creating(self) -> None:
        """The container is about to be created."""

    def running(self, seconds_left: float, measured: Measured) -> None:
        """The container runs, for so long at most; `measured` is renewed while it does."""

    def stopping(self, stopped_by: StoppedBy) -> None:
        """The container is about to be stopped."""

    def collecting(self) -> None:
        """The container has stopped, and what it left is about to be looked at."""

    def ended(self, outcome: Outcome) -> None:
        """The outcome is decided, and the container about to be removed."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How `run` runs a container, where it is not the plain way.

    With `adopt`, the container exists already: its output comes whole, its time limit counts from
    its own start. With `keep`, it stays when it has stopped. `secrets` has the values of
    `spec.secrets`. `before_create` makes ready what the image decides on. A container that ran has
    its outcome from `collect`.
    """

    adopt: bool = False
    keep: bool = False
    cancellation: Cancellation = field(default_factory=Cancellation)
    observer: Observer = field(default_factory=Observer)
    pull_options: PullOptions | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    before_create: BeforeCreate | None = None
    collect: Collect | None = None


async def run(
    engine: Engine, spec: ContainerSpec, sink: Sink, options: RunOptions | None = None
) -> Outcome:
    """Run the container of `spec` to its end and leave nothing of it behind; the outcome.

    A caller that is cancelled may leave the container to be adopted: see `Cancellation`.
    """
    return await _Execution(engine, spec, sink, options or RunOptions()).run()


class _Execution:
    def __init__(
        self, engine: Engine, spec: ContainerSpec, sink: Sink, options: RunOptions
    ) -> None:
        self._engine = engine
        self._spec = spec
        self._sink = sink
        self._options = options
        self._unless_requested = options.cancellation.unless_requested
        self._image: Image | None = None
        self._may_exist = options.adopt
        self._stages: dict[str, float] = {}

    async def run(self) -> Outcome:
        outcome = replace(await self._outcome(), image=self._image, stages=self._stages)
        self._options.observer.ended(outcome)
        left = await self._destroy(patient=self._may_exist)
        return replace(outcome, cleanup_error=left or outcome.cleanup_error)

    async def _outcome(self) -> Outcome:
        options = self._options
        try:
            if not options.adopt:
                await self._create()
            outcome = await self._watch()
            with self._timed("collect"):
                options.observer.collecting()
                return await with_results(outcome, options.collect)
        except (EngineError, Rejected, WorkspaceError) as error:
            return outcome_of(error)
        except CancellationRequested as requested:
            return ended_early(requested.reason.stopped_by)
        except Exception:
            await self._destroy()
            raise

    async def _destroy(self, *, patient: bool = False) -> str | None:
        if self._options.keep:
            return None
        return await destroy(self._engine, self._spec, patient=patient)

    async def _create(self) -> None:
        with self._timed("pull"):
            image = self._image = await self._unless_requested(self._pull())
        if (before_create := self._options.before_create) is not None:
            await self._unless_requested(before_create(image))
        self._options.observer.creating()
        self._may_exist = True
        with self._timed("create"):
            step = self._engine.create(self._spec, image, self._options.secrets)
            await _to_its_end(step, self._options.cancellation)

    async def _pull(self) -> Image:
        spec = self._spec
        try:
            async with asyncio.timeout(spec.pull_timeout_seconds):
                return await self._engine.pull(spec, self._options.pull_options)
        except TimeoutError:
            raise overdue(spec.image, spec.pull_timeout_seconds) from None

    async def _watch(self) -> Outcome:
        engine, spec, adopt = self._engine, self._spec, self._options.adopt
        if not adopt and not spec.workdir_is_mounted and await engine.missing_workdir(spec):
            return missing_workdir(spec)
        with self._timed("run"):
            async with (
                engine.tail(spec, self._sink, replay=adopt) as tailed,
                engine.measured(spec) as measured,
            ):
                stopped_by, back_at = await self._until_stopped(measured)
        outcome = await read_outcome(engine, spec, stopped_by, back_at, watched=not adopt)
        return replace(
            outcome,
            usage=measured.usage,
            points=tuple(thinned(measured.points, _KEPT_POINTS)),
            log_reconnects=tailed.reconnects,
            log_complete=tailed.complete,
        )

    async def _until_stopped(self, measured: Measured) -> tuple[StoppedBy, datetime | None]:
        """Who ended the container, and when its engine came back, if it was away meanwhile."""
        back_at: datetime | None = None
        try:
            seconds = await self._unless_requested(self._start())
            self._options.observer.running(seconds, measured)
            has_stopped, back_at = await self._unless_requested(self._wait(seconds))
            if has_stopped:
                return StoppedBy.CONTAINER, back_at
            reason = Reason.DEADLINE
        except CancellationRequested as requested:
            reason = requested.reason
        self._options.observer.stopping(reason.stopped_by)
        await to_the_end(self._engine.stop(self._spec))
        if (await self._engine.inspect(self._spec)).started_at is None:
            raise CancellationRequested(reason)
        return reason.stopped_by, back_at

    async def _start(self) -> float:
        """Start the container where nobody has yet; the seconds that its time limit leaves it."""
        engine, spec = self._engine, self._spec
        state = await engine.inspect(spec) if self._options.adopt else None
        if state is None or state.started_at is None:
            await engine.start(spec)
            return spec.timeout_seconds
        elapsed = (datetime.now(UTC) - state.started_at).total_seconds()
        return max(0.0, spec.timeout_seconds - elapsed)

    async def _wait(self, seconds: float) -> tuple[bool, datetime | None]:
        """Whether the container stopped within `seconds`, and when its engine last came back."""
        engine, spec = self._engine, self._spec
        deadline, back_at = time.monotonic() + seconds, None
        for _ in range(_ABSENCES):
            try:
                return await engine.wait(spec, max(0.0, deadline - time.monotonic())), back_at
            except EngineUnavailable:
                await retry_while_unavailable(engine.inspect, spec)
                back_at = datetime.now(UTC)
        raise EngineUnavailable(
            f"Docker broke off {_ABSENCES} times while waiting for the container"
        )

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._stages[stage] = round(time.monotonic() - started, 3)


async def _to_its_end(step: Coroutine[Any, Any, T], cancellation: Cancellation) -> T:
    """Wait for a step that must not be left half-done, for a moment also when told to end."""
    running = apart(step)
    try:
        return await cancellation.unless_requested(asyncio.shield(running))
    except (CancellationRequested, asyncio.CancelledError):
        for ended in (await asyncio.wait([running], timeout=_HALF_DONE_SECONDS))[0]:
            # Whatever it was, it is not what ends the run.
            ended.exception()
        raise
