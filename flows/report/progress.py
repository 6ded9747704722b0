"""Show in the Prefect UI that a long run goes on: a progress artifact, renewed ever more seldom.

A run shorter than ten seconds costs no request. Hundreds that go on together cost one a minute
each; what follows a container costs one a stage, and none where it is done within seconds.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple, Self
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactUpdate

from flows.attempt import Executed
from flows.engine.contract import Measured
from flows.report.progress_artifact import ProgressArtifact, find
from flows.report.sentences import state_message
from flows.spec import ContainerSpec
from flows.text import escape
from flows.units import duration, size
from flows.workspace.logs import Logger

PROGRESS_KEY = "container-run-progress"
COLLECTING = "collecting what it left"
PUBLISHING = "listing its files"
UPLOADING = "uploading its files"
FIRST_SECONDS = 10.0
AFTER_SECONDS = 3.0
_SECONDS = 10.0
# For a request that is broken off.
_END_SECONDS = 2.0


def moments() -> Iterator[float]:
    """The seconds of a container's life at which its progress is shown."""
    return itertools.chain((FIRST_SECONDS, 20.0, 40.0), itertools.count(100.0, 60.0))


class RunProgress:
    """Shows what a run is at: how far its container is in its time from `begin`, and then what
    `goes_on` with its files, to the end of the block."""

    def __init__(
        self,
        spec: ContainerSpec,
        say: Callable[[str], None],
        moments: Callable[[], Iterator[float]] = moments,
        after_seconds: float = AFTER_SECONDS,
    ) -> None:
        self._spec = spec
        self._artifact = ProgressArtifact(spec.job_id, PROGRESS_KEY, "the run", say)
        self._moments = moments
        self._after_seconds = after_seconds
        self._began = time.monotonic()
        self._ran_seconds = 0.0
        self._turn = _Turn(iter(()), lambda: "", asyncio.Event())
        self._following: asyncio.Task[None] | None = None

    @classmethod
    def after(cls, spec: ContainerSpec, executed: Executed, say: Callable[[str], None]) -> Self:
        """Of a run whose container has ended."""
        progress, outcome = cls(spec, say), executed.outcome
        progress._began -= executed.duration_seconds
        if outcome.started_at and outcome.finished_at:
            progress._ran_seconds = (outcome.finished_at - outcome.started_at).total_seconds()
        return progress

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._following is not None:
                self._following.cancel()
                await asyncio.wait([self._following], timeout=_END_SECONDS)
        finally:
            await self._artifact.__aexit__(kind, error, traceback)

    @property
    def is_shown(self) -> bool:
        """Whether there is anything to see of it."""
        return self._artifact.is_shown

    def begin(self, seconds_left: float, measured: Measured) -> None:
        """The container runs, for so long at most."""
        self._began = time.monotonic() - (self._spec.timeout_seconds - seconds_left)

        def told() -> str:
            self._ran_seconds = time.monotonic() - self._began
            return sentence(self._spec, self._ran_seconds, measured)

        self._turn_to(self._moments(), told)

    def goes_on(self, doing: str) -> None:
        """The container has ended, and its files are worked on; shown where that takes long."""
        seconds = time.monotonic() - self._began
        moment = max(next(self._moments()), seconds + self._after_seconds)
        self._turn_to(iter([moment]), lambda: about(self._spec, doing))

    def _turn_to(self, moments: Iterator[float], told: Callable[[], str]) -> None:
        earlier, self._turn = self._turn, _Turn(moments, told, asyncio.Event())
        earlier.is_over.set()
        if self._following is None:
            self._following = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        while True:
            turn = self._turn
            for moment in turn.moments:
                pause = self._began + moment - time.monotonic()
                # What an earlier process had to show is past.
                if pause > 0 and await _is_set_within(turn.is_over, pause):
                    break
                if pause > 0:
                    await self._show(turn.told())
            await turn.is_over.wait()

    async def _show(self, told: str) -> None:
        percent = min(99.0, round(100 * self._ran_seconds / self._spec.timeout_seconds, 1))
        await self._artifact.show(percent, told)


class _Turn(NamedTuple):
    """Something that is told at some moments, in seconds of the run's life, until it is over."""

    moments: Iterator[float]
    told: Callable[[], str]
    is_over: asyncio.Event


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


def about(spec: ContainerSpec, doing: str) -> str:
    """`Running`, or `Attempt 2: running`."""
    capital = f"{doing[0].upper()}{doing[1:]}"
    return f"Attempt {spec.attempt}: {doing}" if spec.attempt > 1 else capital


def sentence(spec: ContainerSpec, seconds: float, measured: Measured) -> str:
    """`Running for 3 min of at most 1 h; memory 1.2 GiB of 2 GiB`."""
    longest = duration(spec.timeout_seconds)
    said = f"{about(spec, 'running')} for {duration(seconds)} of at most {longest}"
    used = next((at.memory_bytes for at in reversed(measured.points) if at.memory_bytes), None)
    if used is None:
        return said
    limit = f" of {size(spec.memory_bytes)}" if spec.memory_bytes else ""
    return f"{said}; memory {size(used)}{limit}"


async def end_progress(
    client: PrefectClient,
    job_id: str,
    executed: Executed,
    logger: Logger,
    *,
    is_shown: bool = False,
) -> None:
    """Show that the attempt is over, where its progress was shown by whatever process."""
    if executed.duration_seconds < FIRST_SECONDS and not is_shown:
        return
    outcome = executed.outcome
    said = f"{outcome.name} after {duration(executed.duration_seconds)}: {state_message(outcome)}"
    try:
        async with asyncio.timeout(_SECONDS):
            artifact = await find(client, UUID(job_id), PROGRESS_KEY)
            if artifact is not None:
                changed = ArtifactUpdate(data=100.0, description=escape(said))
                await client.update_artifact(artifact, changed)
    except Exception as error:  # noqa: BLE001 - of a server that is away comes almost anything
        logger.warning("The progress of the run could not be ended: %r", error)
