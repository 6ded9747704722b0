"""Prefect's progress artifacts: how far a pull is, and that a long run goes on.

A run shorter than ten seconds costs no request. Hundreds that go on together cost one a minute
each; what follows a container costs one a stage, and none where it is done within seconds.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from typing import Self
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter

from flows.attempt import Executed
from flows.engine.contract import Measured
from flows.engine.images.progress import PullObserver
from flows.masking import Masker
from flows.report.names import PROGRESS_KEY
from flows.spec import ContainerSpec
from flows.units import duration, size
from flows.workspace.logs import Logger

AWAY = "waiting for the engine, which is out of reach"
COLLECTING = "collecting what it left"
PUBLISHING = "listing its files"
UPLOADING = "uploading its files"
FIRST_SECONDS = 10.0
AFTER_SECONDS = 3.0
# Nothing waits longer for a server that is away.
_REQUEST_SECONDS = 10.0
_SOON_SECONDS = 0.1
# For a request that is broken off.
_END_SECONDS = 2.0


class ProgressArtifact:
    """The artifact `key` of a job, made when there is something to show.

    Asks the API for nothing until then. An API that fails costs the artifact and nothing else:
    `say` hears of it once, in a sentence about `what`.
    """

    def __init__(self, job_id: str, key: str, what: str, say: Callable[[str], None]) -> None:
        self._job_id = job_id
        self._key = key
        self._what = what
        self._say = say
        self._stack = AsyncExitStack()
        self._client: PrefectClient | None = None
        self._artifact: UUID | None = None
        self._gave_up = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    @property
    def is_shown(self) -> bool:
        return self._artifact is not None

    async def show(self, percent: float, description: str) -> None:
        """Show how far it is, from 0 to 100; never raises."""
        if self._gave_up:
            return
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                await self._make_or_update(percent, description)
        except Exception as error:  # noqa: BLE001 - of a server that is away comes almost anything
            self._gave_up = True
            reason = f"{type(error).__name__} {error}".strip()
            self._say(f"The progress of {self._what} is not shown any more: {reason}")

    async def _make_or_update(self, percent: float, description: str) -> None:
        if self._client is None:
            self._client = await self._stack.enter_async_context(get_client())
            # An earlier process, or attempt, may have made it.
            self._artifact = await _find(self._client, UUID(self._job_id), self._key)
        if self._artifact is not None:
            changed = ArtifactUpdate(data=percent, description=description)
            await self._client.update_artifact(self._artifact, changed)
            return
        new = ArtifactCreate(
            key=self._key,
            type="progress",
            data=percent,
            description=description,
            flow_run_id=UUID(self._job_id),
        )
        self._artifact = (await self._client.create_artifact(new)).id


async def _find(client: PrefectClient, job_id: UUID, key: str) -> UUID | None:
    wanted = {"key": {"any_": [key]}, "flow_run_id": {"any_": [job_id]}}
    found = await client.read_artifacts(
        artifact_filter=ArtifactFilter.model_validate(wanted), limit=1
    )
    return next((each.id for each in found), None)


class PrefectPullObserver(PullObserver):
    """Says sentences with `say`, and shows how far the pull is in `artifact`."""

    def __init__(self, artifact: ProgressArtifact, say: Callable[[str], None]) -> None:
        self.masker = Masker()
        self._artifact = artifact
        self._say = say

    def say(self, sentence: str) -> None:
        self._say(self.masker.text(sentence))

    async def show(self, percent: float, description: str) -> None:
        await self._artifact.show(percent, description)


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
        self._is_over = asyncio.Event()
        self._showing: asyncio.Task[None] | None = None
        self._running: Callable[[], str] | None = None

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

    async def __aexit__(self, *error: object) -> None:
        try:
            if self._showing is not None:
                self._showing.cancel()
                await asyncio.wait([self._showing], timeout=_END_SECONDS)
        finally:
            await self._artifact.__aexit__(*error)

    @property
    def is_shown(self) -> bool:
        return self._artifact.is_shown

    def begin(self, seconds_left: float, measured: Measured) -> None:
        """The container runs, for so long at most."""
        self._began = time.monotonic() - (self._spec.timeout_seconds - seconds_left)

        def text() -> str:
            self._ran_seconds = time.monotonic() - self._began
            return running_text(self._spec, self._ran_seconds, measured)

        self._running = text
        self._enter(self._moments(), text)

    def goes_on(self, doing: str) -> None:
        """Its container is not what is waited for; shown where that takes long."""
        moment = max(next(self._moments()), self._seconds() + self._after_seconds)
        self._enter(iter([moment]), lambda: _numbered(self._spec, doing))

    def resume(self) -> None:
        """Show the container again, as before `goes_on`."""
        self._is_over.set()
        if self._running is not None:
            now = [self._seconds() + _SOON_SECONDS] if self.is_shown else []
            self._enter(itertools.chain(now, self._moments()), self._running)

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _enter(self, moments: Iterator[float], text: Callable[[], str]) -> None:
        self._is_over.set()
        self._is_over = asyncio.Event()
        self._showing = asyncio.ensure_future(
            self._show(self._showing, self._is_over, moments, text)
        )

    async def _show(
        self,
        earlier: asyncio.Task[None] | None,
        is_over: asyncio.Event,
        moments: Iterator[float],
        text: Callable[[], str],
    ) -> None:
        """Show a text at some moments of the run's life, after what `earlier` is showing."""
        if earlier is not None:
            await earlier
        for moment in moments:
            pause = self._began + moment - time.monotonic()
            # What an earlier process had to show is past.
            if pause <= 0:
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await is_over.wait()
                    return
            shown, longest = text(), self._spec.timeout_seconds
            percent = min(99.0, round(100 * self._ran_seconds / longest, 1))
            await self._artifact.show(percent, shown)


def _numbered(spec: ContainerSpec, doing: str) -> str:
    """`Running`, or `Attempt 2: running`."""
    capital = f"{doing[0].upper()}{doing[1:]}"
    return f"Attempt {spec.attempt}: {doing}" if spec.attempt > 1 else capital


def running_text(spec: ContainerSpec, seconds: float, measured: Measured) -> str:
    """`Running for 3 min of at most 1 h; memory 1.2 GiB of 2 GiB`."""
    longest = duration(spec.timeout_seconds)
    text = f"{_numbered(spec, 'running')} for {duration(seconds)} of at most {longest}"
    used = next((at.memory_bytes for at in reversed(measured.points) if at.memory_bytes), None)
    if used is None:
        return text
    limit = f" of {size(spec.memory_bytes)}" if spec.memory_bytes else ""
    return f"{text}; memory {size(used)}{limit}"


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
    # The page that lists artifacts shows this as text, the artifact's own as Markdown.
    text = f"{executed.outcome.name} after {duration(executed.duration_seconds)}"
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            artifact = await _find(client, UUID(job_id), PROGRESS_KEY)
            if artifact is not None:
                await client.update_artifact(artifact, ArtifactUpdate(data=100.0, description=text))
    except Exception as error:  # noqa: BLE001 - of a server that is away comes almost anything
        logger.warning("The progress of the run could not be ended: %r", error)
