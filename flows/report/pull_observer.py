"""Tell Prefect how a pull goes: lines in the run's log, and a progress artifact."""

from collections.abc import Callable

from flows.engine.images.pull import Teller
from flows.masking import Masker
from flows.report.progress_artifact import ProgressArtifact

PROGRESS_KEY = "image-pull"


class PrefectTeller(Teller):
    """Says sentences with `say`, and shows how far the pull is in `artifact`."""

    def __init__(self, artifact: ProgressArtifact, say: Callable[[str], None]) -> None:
        self.masker = Masker()
        self._artifact = artifact
        self._say = say

    def say(self, sentence: str) -> None:
        """See `flows.engine.images.pull.Teller`."""
        self._say(self.masker.text(sentence))

    async def show(self, percent: float, description: str) -> None:
        """See `flows.engine.images.pull.Teller`."""
        await self._artifact.show(percent, description)
