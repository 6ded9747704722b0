"""Run one container: the order of its steps, its deadline, and the outcome.

Knows no Docker and no Prefect. `run` is the only caller of an engine's steps for a task; whatever
happens in between, it destroys what the spec names before it returns.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from flows.engine.contract import Engine, Measured, Sink, Tailed
from flows.engine.images.failures import overdue
from flows.engine.images.pull import PullOptions
from flows.engine.types import Image, thinned
from flows.errors import EngineError, EngineSilent, EngineUnavailable, Rejected, WorkspaceError
from flows.outcome import (
    Outcome,
    StoppedBy,
    ended_early,
    missing_workdir,
    outcome_of,
    unreached,
)
from flows.runtime.cancellation import Cancellation, CancellationRequested, Reason
from flows.runtime.ending import Collect, destroy, read_outcome, with_results
from flows.runtime.engine_wait import CANCEL_SECONDS, Again, EngineWait, clock
from flows.runtime.observer import Observer
from flows.spec import ContainerSpec
from flows.threads import apart, to_the_end

T = TypeVar("T")
# Raises a `ContainerTaskError`.
BeforeCreate = Callable[[Image], Coroutine[Any, Any, None]]
# Between two looks at a container whose engine answers and will not be waited at.
_PAUSES_SECONDS = (0.1, 2.0)
# As many as a chart can show; they are in the attempt store, which is read and written often.
_KEPT_POINTS = 240
# What an engine still makes after that is left to the sweep.
_HALF_DONE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How `run` runs a container, where it is not the plain way.

    With `adopt`, the container exists already: its output comes whole, its time limit counts from
    its own start, without `paused_seconds`. One that `is_adoptable` is left to that by an error
    that nobody foresaw; with `keep`, it stays when it has stopped. `secrets` has the values of
    `spec.secrets`. `before_create` makes ready what the image decides on. A container that ran has
    its outcome from `collect`. An engine that is out of reach is waited for by `wait`.
    """

    adopt: bool = False
    is_adoptable: bool = False
    paused_seconds: float = 0.0
    keep: bool = False
    cancellation: Cancellation = field(default_factory=Cancellation)
    observer: Observer = field(default_factory=Observer)
    pull_options: PullOptions | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    before_create: BeforeCreate | None = None
    collect: Collect | None = None
    wait: EngineWait | None = None


async def run(
    engine: Engine, spec: ContainerSpec, sink: Sink, options: RunOptions | None = None
) -> Outcome:
    """Run the container of `spec` to its end and leave nothing of it behind; the outcome.

    A caller that is cancelled may leave the container to be adopted: see `Cancellation`. Raises
    `CancelledError` as well where it is to end and the engine is out of reach.
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
        self._wait = options.wait or EngineWait.of(spec)
        # Who an earlier process was about to stop it for, if it did not get to its end.
        self._was_stopping = options.cancellation.reason if options.adopt else None
        self._is_told_to_end = False
        self._image: Image | None = None
        self._may_exist = options.adopt
        self._is_answer_lost = False
        self._again = Again()
        self._stages: dict[str, float] = {}

    async def run(self) -> Outcome:
        outcome = replace(await self._outcome(), image=self._image, stages=self._stages)
        self._options.observer.ended(outcome)
        may_be_left = self._may_exist and not outcome.unreached
        left = await self._destroy() if may_be_left else None
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
        except EngineSilent as error:
            if self._is_told_to_end:
                # As if by the caller, who does what was told when the engine is heard of again.
                raise asyncio.CancelledError from error
            return unreached(error) if self._may_exist else outcome_of(error)
        except (EngineError, Rejected, WorkspaceError) as error:
            return outcome_of(error)
        except CancellationRequested as requested:
            return ended_early(requested.reason.stopped_by)
        except Exception:
            if self._may_exist and not self._options.is_adoptable:
                await self._destroy()
            raise

    async def _destroy(self) -> str | None:
        if self._options.keep:
            return None
        return await destroy(self._engine, self._spec, self._wait)

    async def _create(self) -> None:
        with self._timed("pull"):
            image = self._image = await self._unless_requested(self._pull())
        if (before_create := self._options.before_create) is not None:
            ready = partial(before_create, image)
            await self._unless_requested(self._wait.ask(ready, brief=True, is_long=True))
        self._options.observer.creating()
        self._may_exist = True
        with self._timed("create"):
            while not await self._is_created(image):
                pass

    async def _is_created(self, image: Image) -> bool:
        """Create the container; False where the request was lost, and is to be made again."""
        engine, spec = self._engine, self._spec
        step = engine.create(spec, image, self._options.secrets)
        try:
            await _to_its_end(step, self._options.cancellation)
        except EngineSilent as lost:
            self._is_answer_lost = True
            if await self._unless_requested(self._ask(engine.find)):
                return True
            await self._unless_requested(self._again.after(lost))
            return False
        except EngineError:
            # The name may be taken by what became of the request before.
            if not (self._is_answer_lost and await self._ask(engine.find)):
                raise
        return True

    def _ask(self, question: Callable[[ContainerSpec], Awaitable[T]]) -> Coroutine[Any, Any, T]:
        """What the engine answers, when it does."""
        return self._wait.ask(partial(question, self._spec))

    async def _pull(self) -> Image:
        spec = self._spec
        try:
            async with asyncio.timeout(spec.pull_timeout_seconds):
                pull = partial(self._engine.pull, spec, self._options.pull_options)
                return await self._wait.ask(pull, brief=True, is_long=True)
        except TimeoutError:
            raise overdue(spec.image, spec.pull_timeout_seconds) from None

    async def _watch(self) -> Outcome:
        engine, spec, adopt = self._engine, self._spec, self._options.adopt
        if not (adopt or spec.workdir_is_mounted) and await self._ask(engine.missing_workdir):
            return missing_workdir(spec)
        with self._timed("run"):
            async with contextlib.AsyncExitStack() as stack:
                tailed = await self._ask(partial(self._tailed, stack))
                measured = await stack.enter_async_context(engine.measured(spec))
                stopped_by, back_at = await self._until_stopped(measured)
        outcome = await read_outcome(
            engine, spec, stopped_by, back_at, watched=not adopt, wait=self._wait
        )
        return replace(
            outcome,
            usage=measured.usage,
            points=tuple(thinned(measured.points, _KEPT_POINTS)),
            log_reconnects=tailed.reconnects,
            log_complete=tailed.complete,
        )

    async def _tailed(self, stack: contextlib.AsyncExitStack, spec: ContainerSpec) -> Tailed:
        tail = self._engine.tail(spec, self._sink, replay=self._options.adopt)
        return await stack.enter_async_context(tail)

    async def _until_stopped(self, measured: Measured) -> tuple[StoppedBy, datetime | None]:
        """Who ended the container, and when its engine came back, if it was away meanwhile."""
        back_at: datetime | None = None
        try:
            seconds = await self._unless_requested(self._start())
            self._options.observer.running(seconds, measured)
            has_stopped, back_at = await self._unless_requested(self._wait_for_end(seconds))
            if has_stopped:
                return StoppedBy.CONTAINER, back_at
            reason = Reason.DEADLINE
        except CancellationRequested as requested:
            reason = requested.reason
        return await self._stop(reason), back_at

    async def _stop(self, reason: Reason) -> StoppedBy:
        """Stop the container; who ended it."""
        if reason is Reason.DEADLINE:
            return await self._stopped(reason)
        # A person's word stands, and is answered soon also where the engine is out of reach.
        self._is_told_to_end = True
        self._options.observer.stopping(reason.stopped_by)
        self._wait.shorten(CANCEL_SECONDS)
        return await to_the_end(self._stopped(reason))

    async def _stopped(self, reason: Reason) -> StoppedBy:
        if reason is Reason.DEADLINE and self._was_stopping is None:
            state = await self._ask(self._engine.inspect)
            if state.started_at and not state.running:
                # It had ended by itself when the engine could say so.
                return StoppedBy.CONTAINER
            self._options.observer.stopping(reason.stopped_by)
        await self._wait.stop(self._engine, self._spec)
        if (await self._ask(self._engine.inspect)).started_at is None:
            raise CancellationRequested(reason)
        return reason.stopped_by

    async def _start(self) -> float:
        """Start the container where nobody has yet; the seconds that its time limit leaves it."""
        engine, spec, may_run = self._engine, self._spec, self._options.adopt
        lost: EngineSilent | None = None
        while True:
            if may_run and (began := (state := await self._ask(engine.inspect)).started_at):
                if state.paused:
                    await self._ask(engine.unpause)
                elapsed = (await self._clock() - began).total_seconds()
                left = spec.timeout_seconds - elapsed + self._options.paused_seconds
                return min(spec.timeout_seconds, max(0.0, left))
            if lost:
                await self._again.after(lost)
            try:
                await engine.start(spec)
            except EngineSilent as error:
                may_run, lost = True, error
            else:
                return spec.timeout_seconds

    async def _wait_for_end(self, seconds: float) -> tuple[bool, datetime | None]:
        """Whether the container stopped within `seconds`, and when its engine last came back."""
        engine, spec, back_at = self._engine, self._spec, None
        deadline = time.monotonic() + seconds - engine.stood_seconds
        pause, longest = _PAUSES_SECONDS
        while True:
            left = max(0.0, deadline + engine.stood_seconds - time.monotonic())
            try:
                return await engine.wait(spec, left), back_at
            except EngineUnavailable:
                is_running, back_at = (await self._ask(engine.inspect)).running, await self._clock()
                if not (is_running and left):
                    return not is_running, back_at
            await asyncio.sleep(min(left, pause))
            pause = min(2 * pause, longest)

    async def _clock(self) -> datetime:
        return await self._wait.ask(partial(clock, self._engine))

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
