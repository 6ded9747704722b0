"""Show in the Prefect UI that a long run goes on: a progress artifact, renewed ever more seldom.

A run shorter than ten seconds costs no request. Hundreds that go on together cost one a minute
each.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactUpdate

from flows.engine_contract import Measured
from flows.logs import Logger
from flows.markdown import escape
from flows.messages import state_message
from flows.progress_artifact import ProgressArtifact, find
from flows.sizes import duration, size
from flows.spec import ContainerSpec
from flows.stages import Executed

PROGRESS_KEY = "container-run-progress"
FIRST_SECONDS = 10.0
_SECONDS = 10.0
# For a request that is broken off.
_END_SECONDS = 2.0


def moments() -> Iterator[float]:
    """The seconds of a container's life at which its progress is shown."""
    return itertools.chain((FIRST_SECONDS, 20.0, 40.0), itertools.count(100.0, 60.0))


class RunProgress:
    """Shows how far a container is in its time, between `begin` and the end of the block."""

    def __init__(
        self,
        spec: ContainerSpec,
        say: Callable[[str], None],
        moments: Callable[[], Iterator[float]] = moments,
    ) -> None:
        self._spec = spec
        self._artifact = ProgressArtifact(spec.job_id, PROGRESS_KEY, "the run", say)
        self._moments = moments
        self._following: asyncio.Task[None] | None = None

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

    def begin(self, seconds_left: float, measured: Measured) -> None:
        """The container runs, for so long at most."""
        began = time.monotonic() - (self._spec.timeout_seconds - seconds_left)
        self._following = asyncio.ensure_future(self._follow(began, measured))

    async def _follow(self, began: float, measured: Measured) -> None:
        for moment in self._moments():
            pause = began + moment - time.monotonic()
            # What an earlier process had to show is past.
            if pause > 0:
                await asyncio.sleep(pause)
                seconds = time.monotonic() - began
                percent = min(99.0, round(100 * seconds / self._spec.timeout_seconds, 1))
                await self._artifact.show(percent, sentence(self._spec, seconds, measured))


def sentence(spec: ContainerSpec, seconds: float, measured: Measured) -> str:
    """`Running for 3 min of at most 1 h; memory 1.2 GiB of 2 GiB`."""
    attempt = f"Attempt {spec.attempt}: running" if spec.attempt > 1 else "Running"
    said = f"{attempt} for {duration(seconds)} of at most {duration(spec.timeout_seconds)}"
    used = next((at.memory_bytes for at in reversed(measured.points) if at.memory_bytes), None)
    if used is None:
        return said
    limit = f" of {size(spec.memory_bytes)}" if spec.memory_bytes else ""
    return f"{said}; memory {size(used)}{limit}"


async def end_progress(
    client: PrefectClient, job_id: str, executed: Executed, logger: Logger
) -> None:
    """Show that the attempt is over, where its progress was shown by whatever process."""
    if executed.duration_seconds < FIRST_SECONDS:
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
