"""Tell Prefect how a pull goes: lines in the run's log, and a progress artifact."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

from flows.images import Teller
from flows.masking import Masker

PROGRESS_KEY = "image-pull"
# A pull does not wait for a server that is away.
_SECONDS = 10.0


class PrefectTeller(Teller):
    """Says sentences with `say`, and shows how far the pull is as an artifact of the run.

    Asks the API for nothing until there is something to show. An API that fails costs the artifact
    and nothing else.
    """

    def __init__(self, job_id: str, say: Callable[[str], None]) -> None:
        self.masker = Masker()
        self._job_id = UUID(job_id)
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

    def say(self, sentence: str) -> None:
        """See `flows.images.Teller`."""
        self._say(self.masker.text(sentence))

    async def show(self, percent: float, description: str) -> None:
        """See `flows.images.Teller`."""
        if self._gave_up:
            return
        try:
            async with asyncio.timeout(_SECONDS):
                await self._show(percent, description)
        except Exception as error:  # noqa: BLE001 - of a server that is away comes almost anything
            self._gave_up = True
            said = f"{type(error).__name__} {error}".strip()
            self.say(f"The progress of the pull is not shown any more: {said}")

    async def _show(self, percent: float, description: str) -> None:
        if self._client is None:
            self._client = await self._stack.enter_async_context(get_client())
        if self._artifact is not None:
            changed = ArtifactUpdate(data=percent, description=description)
            await self._client.update_artifact(self._artifact, changed)
            return
        new = ArtifactCreate(
            key=PROGRESS_KEY,
            type="progress",
            data=percent,
            description=description,
            flow_run_id=self._job_id,
        )
        self._artifact = (await self._client.create_artifact(new)).id
