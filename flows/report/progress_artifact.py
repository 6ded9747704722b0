"""One progress artifact of a run, for whoever watches it in the Prefect UI."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)

from flows.engine.images.observer import PullObserver
from flows.masking import Masker

# What is told of does not wait for a server that is away.
_SECONDS = 10.0


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

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @property
    def is_shown(self) -> bool:
        """Whether it is there, as far as is known."""
        return self._artifact is not None

    async def show(self, percent: float, description: str) -> None:
        """Show how far it is, from 0 to 100; never raises."""
        if self._gave_up:
            return
        try:
            async with asyncio.timeout(_SECONDS):
                await self._show(percent, description)
        except Exception as error:  # noqa: BLE001 - of a server that is away comes almost anything
            self._gave_up = True
            said = f"{type(error).__name__} {error}".strip()
            self._say(f"The progress of {self._what} is not shown any more: {said}")

    async def _show(self, percent: float, description: str) -> None:
        if self._client is None:
            self._client = await self._stack.enter_async_context(get_client())
            # An earlier process, or attempt, may have made it.
            self._artifact = await find(self._client, UUID(self._job_id), self._key)
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


async def find(client: PrefectClient, job_id: UUID, key: str) -> UUID | None:
    """The job's artifact of that key; None where it has none."""
    wanted = ArtifactFilter(
        key=ArtifactFilterKey(any_=[key]), flow_run_id=ArtifactFilterFlowRunId(any_=[job_id])
    )
    found = await client.read_artifacts(artifact_filter=wanted, limit=1)
    return next((each.id for each in found), None)


PROGRESS_KEY = "image-pull"


class PrefectPullObserver(PullObserver):
    """Says sentences with `say`, and shows how far the pull is in `artifact`."""

    def __init__(self, artifact: ProgressArtifact, say: Callable[[str], None]) -> None:
        self.masker = Masker()
        self._artifact = artifact
        self._say = say

    def say(self, sentence: str) -> None:
        """See `flows.engine.images.observer.PullObserver`."""
        self._say(self.masker.text(sentence))

    async def show(self, percent: float, description: str) -> None:
        """See `flows.engine.images.observer.PullObserver`."""
        await self._artifact.show(percent, description)
