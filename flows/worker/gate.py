"""The engine's word before each claim: where it does not answer, nothing is claimed."""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

from prefect.client.schemas.objects import State

from flows.engine.contract import Engine
from flows.engine.selection import OpenEngine, open_engine
from flows.errors import EngineError, EngineRefused
from flows.outcome import FailureClass, OutcomeName
from flows.report.names import outcome_of_state
from flows.runtime.store import AttemptStore
from flows.settings import HostSettings
from flows.units import NOTHING, Resources
from flows.workspace.logs import Logger

# Of the engine's memory, what is left to the host itself.
_RESERVE = 0.1
_PING_SECONDS, _LONGEST_PAUSE_SECONDS = 10.0, 10.0
# So many tasks in a row that the engine fails are its own affair, and its pause after the last.
_SICK_AFTER = 3
_SICK_SECONDS, _LONGEST_SICK_SECONDS = 30.0, 300.0


class EngineGate:
    """Says before each claim whether the engine answers, and what the host has for tasks."""

    def __init__(
        self,
        host: HostSettings,
        logger: Logger,
        open_engine: OpenEngine = open_engine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._logger = logger
        self._open_engine = open_engine
        self._clock = clock
        self._away = 0
        self._failed = 0
        self._opens_at = 0.0
        self.total = NOTHING

    async def opens(self) -> bool:
        """Ask the engine; whether runs may be claimed now, by its answer."""
        if self.seconds_to_try > 0:
            return False
        try:
            async with asyncio.timeout(_PING_SECONDS), self._open_engine(None) as engine:
                await engine.ping()
                self.total = self.total or await self._size(engine)
        except (EngineError, TimeoutError) as error:
            self._close(error)
            return False
        if self._away:
            self._away = 0
            self._logger.info("The engine answers again")
        return True

    @property
    def seconds_to_try(self) -> float:
        """Until the engine is asked again; 0 where that is now."""
        return max(0.0, self._opens_at - self._clock())

    @property
    def at_most(self) -> int | None:
        """How many may be begun at a time; one alone where the engine failed those before."""
        return 1 if self._failed >= _SICK_AFTER else None

    def note_begun(self) -> None:
        """Take that a task begins: where the engine failed those before, the next waits for it."""
        if self._failed >= _SICK_AFTER:
            self._pause()

    def note_end(self, *, engine_failed: bool) -> None:
        """Take how a task ended; one that the engine did not fail clears it of those before."""
        self._failed = self._failed + 1 if engine_failed else 0
        if self._failed >= _SICK_AFTER:
            self._pause()
            words = "The engine failed %s tasks in a row: none starts here for %.0f s, then one"
            self._logger.warning(words, self._failed, self.seconds_to_try)
        elif not engine_failed and not self._away:
            self._opens_at = 0.0

    def _pause(self) -> None:
        doubled = _SICK_SECONDS * 2 ** min(self._failed - _SICK_AFTER, 10)
        self._opens_at = self._clock() + min(_LONGEST_SICK_SECONDS, doubled)

    def _close(self, error: Exception) -> None:
        self._away += 1
        self.total = NOTHING
        self._opens_at = self._clock() + min(_LONGEST_PAUSE_SECONDS, 0.5 * 2 ** min(self._away, 10))
        if self._away == 1:
            self._logger.warning("No task starts here until the engine answers: %s", error)

    async def _size(self, engine: Engine) -> Resources:
        """Processors and memory for tasks."""
        try:
            found = await engine.capacity()
        except EngineRefused:
            # A proxy that tells nothing of the host: the worker is expected to be on it.
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            found = Resources(float(os.cpu_count() or 1), memory)
        total = Resources(
            self._host.worker_cpus or found.cpus,
            self._host.worker_memory or int(found.memory_bytes * (1 - _RESERVE)),
        )
        self._logger.info("%s has %s for tasks", self._host.worker, total)
        return total


def is_engines_fault(state: State[Any], store: AttemptStore) -> bool:
    """Whether the run that `store` knows ended in `state` by the engine's fault, and not by that of
    its repository or of the host's disk."""
    if outcome_of_state(state.type.value, state.name or "") is not OutcomeName.INFRASTRUCTURE:
        return False
    newest = store.last()
    executed = newest.executed if newest else None
    return bool(executed and executed.outcome.failure_class is FailureClass.ENGINE)
