"""Run one container: the order of its steps, its deadline, and the outcome.

Knows no Docker and no Prefect. `run` is the only caller of an engine's steps for a task; whatever
happens in between, it destroys what the spec names before it returns.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential,
)

from flows.engine.contract import Engine, Measured, Sink
from flows.engine.images.failures import overdue
from flows.engine.images.pull import Supply
from flows.engine.types import ContainerState, Evidence, Image
from flows.engine.usage import thinned
from flows.errors import EngineError, EngineUnavailable, Rejected
from flows.exit_code import KILLED
from flows.outcome import (
    Outcome,
    StoppedBy,
    container_outcome,
    ended_early,
    missing_workdir,
    outcome_of,
)
from flows.runtime.cancellation import Cancellation, CancellationRequested, Reason
from flows.spec import ContainerSpec
from flows.threads import apart, to_the_end

T = TypeVar("T")
# Judges an outcome by what the container left, once it has stopped; raises nothing.
Verdict = Callable[[Outcome], Awaitable[Outcome]]

# How long an engine may be away while its container runs: the time of a restart.
PATIENCE_SECONDS = 60.0
_ABSENCES = 1000
_CLOCKS_APART = timedelta(seconds=5)
_OOM_NEWS_SECONDS = 0.2
# As many as a picture can show; they are in the attempt store, which is read and written often.
_KEPT_POINTS = 240
# What an engine still makes after that is left to the sweep.
_HALF_DONE_SECONDS = 10.0


class Notes:
    """What a run notes before each step that leaves a trace, so that another process can go on.

    This one notes nothing.
    """

    def begins(self) -> None:
        """The container is about to be created."""

    def runs(self, seconds_left: float, measured: Measured) -> None:
        """The container runs, for so long at most; `measured` is renewed while it does."""

    def stops(self, why: StoppedBy) -> None:
        """The container is about to be stopped."""

    def collects(self) -> None:
        """The container has stopped, and what it left is about to be looked at."""

    def ends(self, outcome: Outcome) -> None:
        """The outcome is decided, and the container about to be removed."""


async def run(
    engine: Engine,
    spec: ContainerSpec,
    sink: Sink,
    *,
    adopt: bool = False,
    cancellation: Cancellation | None = None,
    notes: Notes | None = None,
    supply: Supply | None = None,
    secrets: Mapping[str, str] | None = None,
    verdict: Verdict | None = None,
) -> Outcome:
    """Run the container of `spec` to its end and leave nothing of it behind.

    With `adopt`, the container exists already (an earlier process made it) and is taken over: its
    output comes whole, its time limit counts from its own start. `cancellation` ends it early; the
    image is pulled with `supply`; `secrets` has the values of `spec.secrets`. A container that ran
    has its outcome from `verdict`, before it is noted.

    Returns an outcome for everything a task or an engine can do. A caller that is cancelled
    leaves the container as it is, for whoever adopts or finishes it.
    """
    stages: dict[str, float] = {}
    image: Image | None = None
    begun = adopt
    cancellation, notes = cancellation or Cancellation(), notes or Notes()
    try:
        if not adopt:
            with _timed(stages, "pull"):
                image = await cancellation.unless_requested(_pull(engine, spec, supply))
            notes.begins()
            begun = True
            with _timed(stages, "create"):
                await _whole(engine.create(spec, image, secrets or {}), cancellation)
        outcome = await _watch(engine, spec, sink, stages, cancellation, notes, adopt=adopt)
        with _timed(stages, "collect"):
            notes.collects()
            outcome = await with_verdict(outcome, verdict)
    except (EngineError, Rejected) as error:
        outcome = outcome_of(error)
    except CancellationRequested as requested:
        outcome = ended_early(requested.reason.stopped_by)
    except Exception:
        await destroy(engine, spec)
        raise
    outcome = replace(outcome, image=image, stages=stages)
    notes.ends(outcome)
    left = await destroy(engine, spec, patient=begun)
    return replace(outcome, cleanup_error=left or outcome.cleanup_error)


async def with_verdict(outcome: Outcome, verdict: Verdict | None) -> Outcome:
    """The outcome by what the container left, where it ran and somebody judges that."""
    # One that never started left nothing; of one that is gone, nobody knows that it has stopped.
    if verdict is None or outcome.started_at is None:
        return outcome
    return await verdict(outcome)


async def _pull(engine: Engine, spec: ContainerSpec, supply: Supply | None) -> Image:
    try:
        async with asyncio.timeout(spec.pull_timeout_seconds):
            return await engine.pull(spec, supply)
    except TimeoutError:
        raise overdue(spec.image, spec.pull_timeout_seconds) from None


async def _watch(
    engine: Engine,
    spec: ContainerSpec,
    sink: Sink,
    stages: dict[str, float],
    cancellation: Cancellation,
    notes: Notes,
    *,
    adopt: bool,
) -> Outcome:
    if not adopt and not spec.workdir_is_mounted and await engine.missing_workdir(spec):
        return missing_workdir(spec)
    back_at: datetime | None = None
    with _timed(stages, "run"):
        async with (
            engine.tail(spec, sink, replay=adopt) as tailed,
            engine.measured(spec) as measured,
        ):
            try:
                seconds = await cancellation.unless_requested(_begin(engine, spec, adopt=adopt))
                notes.runs(seconds, measured)
                stopped, back_at = await cancellation.unless_requested(_wait(engine, spec, seconds))
                stopped_by = StoppedBy.CONTAINER if stopped else StoppedBy.DEADLINE
            except CancellationRequested as requested:
                stopped_by = requested.reason.stopped_by
            if stopped_by is not StoppedBy.CONTAINER:
                notes.stops(stopped_by)
                await to_the_end(engine.stop(spec))
                if (await engine.inspect(spec)).started_at is None:
                    raise CancellationRequested(Reason(stopped_by))
    outcome = await judged(engine, spec, stopped_by, back_at, watched=not adopt)
    return replace(
        outcome,
        usage=measured.usage,
        points=tuple(thinned(measured.points, _KEPT_POINTS)),
        log_reconnects=tailed.reconnects,
        log_complete=tailed.complete,
    )


async def _begin(engine: Engine, spec: ContainerSpec, *, adopt: bool) -> float:
    """Start the container where nobody has yet; the seconds that its time limit leaves it."""
    state = await engine.inspect(spec) if adopt else None
    if state is None or state.started_at is None:
        await engine.start(spec)
        return spec.timeout_seconds
    elapsed = (datetime.now(UTC) - state.started_at).total_seconds()
    return max(0.0, spec.timeout_seconds - elapsed)


async def _wait(
    engine: Engine, spec: ContainerSpec, seconds: float
) -> tuple[bool, datetime | None]:
    """Whether the container stopped within `seconds`, and when its engine came back, if it was
    away meanwhile.

    An engine that comes back is asked again; how its containers fared it then knows itself.
    """
    deadline = time.monotonic() + seconds
    back_at = None
    for _ in range(_ABSENCES):
        try:
            return await engine.wait(spec, max(0.0, deadline - time.monotonic())), back_at
        except EngineUnavailable:
            await patiently(engine.inspect, spec)
            back_at = datetime.now(UTC)
    raise EngineUnavailable(f"Docker broke off {_ABSENCES} times while waiting for the container")


async def judged(
    engine: Engine,
    spec: ContainerSpec,
    stopped_by: StoppedBy,
    back_at: datetime | None = None,
    *,
    watched: bool = False,
) -> Outcome:
    """The outcome of the container that has stopped, on the evidence of the engine.

    `back_at` is when the engine came back after an absence; `watched`, that this process saw the
    container's whole life, so that the engine's record of its end cannot have been crowded out.
    """
    state = await _final_state(engine, spec)
    started_at = state.started_at
    if stopped_by is StoppedBy.CONTAINER and state.exit_code != 0 and started_at:
        try:
            evidence = await engine.evidence(spec, started_at)
        except EngineUnavailable:
            # One that shuts down may still answer an inspect.
            evidence = await patiently(partial(engine.evidence, since=started_at), spec)
            state, back_at = await patiently(engine.inspect, spec), datetime.now(UTC)
        state = replace(state, oom_killed=state.oom_killed or evidence.oom)
        if not state.oom_killed:
            forgotten = watched and evidence.exit_code is None
            fell = forgotten or _fell_with_engine(state, back_at)
            stopped_by = _killer(state, evidence, engine_fell=fell)
    return container_outcome(spec, state, stopped_by)


def _fell_with_engine(state: ContainerState, back_at: datetime | None) -> bool:
    """Whether the container ended while its engine was away or came back."""
    if back_at is None or state.finished_at is None:
        return False
    return state.finished_at <= back_at + _CLOCKS_APART


def _killer(state: ContainerState, evidence: Evidence, *, engine_fell: bool) -> StoppedBy:
    if engine_fell and (evidence.signals or state.signal):
        return StoppedBy.ENGINE
    return StoppedBy.OUTSIDE if evidence.signals else StoppedBy.CONTAINER


async def _final_state(engine: Engine, spec: ContainerSpec) -> ContainerState:
    state = await patiently(engine.inspect, spec)
    if state.exit_code == KILLED and not state.oom_killed:
        # The engine hears of a memory kill by another way than of the exit, at times a little
        # later; which it was, only the engine may say.
        await asyncio.sleep(_OOM_NEWS_SECONDS)
        state = await engine.inspect(spec)
    return state


async def patiently(ask: Callable[[ContainerSpec], Awaitable[T]], spec: ContainerSpec) -> T:
    """What the engine answers, once it does."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(EngineUnavailable),
        wait=wait_exponential(multiplier=0.1, max=2),
        stop=stop_after_delay(PATIENCE_SECONDS),
        reraise=True,
    )
    return await retrying(ask, spec)


async def destroy(engine: Engine, spec: ContainerSpec, *, patient: bool = False) -> str | None:
    """Remove the container even while the caller is being cancelled; say what kept it.

    With `patient`, an engine that is away gets the time to come back.
    """
    try:
        await to_the_end(patiently(engine.destroy, spec) if patient else engine.destroy(spec))
    except EngineError as error:
        return str(error)
    return None


async def _whole(step: Coroutine[Any, Any, T], cancellation: Cancellation) -> T:
    """Wait for a step that must not be left half-done, for a moment also when told to end."""
    running = apart(step)
    try:
        return await cancellation.unless_requested(_shielded(running))
    except (CancellationRequested, asyncio.CancelledError):
        await asyncio.wait([running], timeout=_HALF_DONE_SECONDS)
        raise


async def _shielded(running: asyncio.Future[T]) -> T:
    return await asyncio.shield(running)


@contextlib.contextmanager
def _timed(stages: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        stages[name] = round(time.monotonic() - started, 3)
