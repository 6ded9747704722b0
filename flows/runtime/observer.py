"""What a run tells of its steps, and of an engine that is out of reach meanwhile."""

import asyncio
from collections.abc import Callable

from flows.engine.contract import Measured
from flows.errors import EngineSilent
from flows.outcome import Outcome, StoppedBy
from flows.report.progress import AWAY, RunProgress


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


class Absences:
    """Tells of an engine that is out of reach, once an absence, in the log and the progress; from
    any thread."""

    def __init__(self, say: Callable[[str], None], progress: RunProgress | None = None) -> None:
        self.say = say
        self._progress = progress
        self._loop = asyncio.get_running_loop()

    def away(self, error: EngineSilent) -> None:
        """It is out of reach."""
        self.say(f"The engine is out of reach, and the run waits for it: {error}")
        if self._progress:
            self._loop.call_soon_threadsafe(self._progress.goes_on, AWAY)

    def back(self, seconds: float) -> None:
        """It answers again, after so long."""
        self.say(f"The engine answers again, after {seconds:.0f} s")
        if self._progress:
            self._loop.call_soon_threadsafe(self._progress.resume)
