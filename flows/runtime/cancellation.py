"""Stop a run that this process carries: for its worker, which shares the process with it.

A run in a process of its own is told by a signal instead, and finds nothing here.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any, TypeVar

from flows.outcome import StoppedBy
from flows.threads import to_the_end

T = TypeVar("T")


class Why(StrEnum):
    """What becomes of the container: it is stopped, or left to whoever takes the run up next."""

    CANCEL = "cancel"
    HAND_OVER = "hand-over"


class Stop:
    """At most one request, the first, from any thread; it may come before the run listens."""

    def __init__(self) -> None:
        self.why: Why | None = None
        self._work: asyncio.Task[Any] | None = None
        self._lock = threading.Lock()

    def request(self, why: Why) -> None:
        """Ask for the stop; returns at once."""
        with self._lock:
            if self.why is None:
                self.why = why
                self._reach()

    async def reaches(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which a request cancels."""
        with self._lock:
            running = asyncio.ensure_future(work)
            self._work = running
            if self.why is not None:
                self._reach()
        return await running

    def _reach(self) -> None:
        if self._work is not None:
            # The loop of a run that is over may be closed.
            with contextlib.suppress(RuntimeError):
                self._work.get_loop().call_soon_threadsafe(self._work.cancel)


_carried: dict[str, Stop] = {}


def carry(job_id: str) -> Stop:
    """Note that this process carries the job, until `put_down`; the value stops it."""
    stop = _carried[job_id] = Stop()
    return stop


def put_down(job_id: str) -> None:
    """The job is over, or somebody else's."""
    del _carried[job_id]


def stop_of(job_id: str) -> Stop | None:
    """How a job that this process carries is stopped; None for one that it does not."""
    return _carried.get(job_id)


def carried_jobs() -> list[str]:
    """The jobs that this process carries."""
    return list(_carried)


class Interrupted(Exception):
    """The attempt is to end; `why` says on whose word."""

    def __init__(self, why: StoppedBy) -> None:
        super().__init__(str(why))
        self.why = why


async def _by_cancel() -> StoppedBy | None:
    return StoppedBy.CANCEL


class Interrupt:
    """At most one request, the first; made and waited for in one event loop.

    A caller that is cancelled asks `on_cancel` what that means: the word on which the attempt is
    to end, or None where it is to be left as it is.
    """

    def __init__(
        self, on_cancel: Callable[[], Coroutine[Any, Any, StoppedBy | None]] = _by_cancel
    ) -> None:
        self._on_cancel = on_cancel
        self._request: asyncio.Future[StoppedBy] = asyncio.get_running_loop().create_future()

    def request(self, why: StoppedBy) -> None:
        """Ask for the end. What is asked after the first time changes nothing."""
        if not self._request.done():
            self._request.set_result(why)

    async def unless_requested(self, step: Coroutine[Any, Any, T]) -> T:
        """The result of `step`; raises `Interrupted`, and cancels the step, when the request
        comes first."""
        running = asyncio.ensure_future(step)
        either: list[asyncio.Future[Any]] = [running, self._request]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            why = await to_the_end(self._on_cancel())
            if why is None:
                raise
            self.request(why)
        finally:
            if not running.done():
                running.cancel()
        if self._request.done():
            raise Interrupted(self._request.result())
        return running.result()
