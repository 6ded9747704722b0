"""A thread-safe request to end a run or an attempt, with its reason, as asyncio delivers it.

A run in a process of its own is told by SIGTERM instead, which reaches its tasks as
`asyncio.CancelledError`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from flows.outcome import StoppedBy
from flows.threads import to_the_end

T = TypeVar("T")


class Reason(StrEnum):
    """Why work is to end.

    `HAND_OVER` leaves the container to whichever process takes the run up next, `SUSPEND` leaves
    it paused; otherwise it is stopped: somebody canceled the run, set it to a final state
    (`SETTLED`) or removed it (`DELETED`), or another host has it (`TAKEN`).
    """

    CANCEL = "cancel"
    DEADLINE = "deadline"
    HAND_OVER = "hand-over"
    SUSPEND = "suspend"
    SETTLED = "settled"
    DELETED = "deleted"
    TAKEN = "taken"

    @property
    def leaves_container(self) -> bool:
        """Whether the container is left to a later process."""
        return self in (Reason.HAND_OVER, Reason.SUSPEND)

    @property
    def stopped_by(self) -> StoppedBy:
        """As it is published of a container; `ValueError` for those that stop none."""
        if self.leaves_container:
            raise ValueError(f"{self} stops no container")
        return StoppedBy.DEADLINE if self is Reason.DEADLINE else StoppedBy.CANCEL


@dataclass(eq=False)
class CancellationRequested(Exception):
    """The attempt is to end, for `reason`."""

    reason: Reason


async def _always_cancel() -> Reason:
    return Reason.CANCEL


class Cancellation:
    """A request to end work, at most one, the first, from any thread; asyncio delivers it.

    `meaning` says what it means that asyncio cancels who waits in `unless_requested`.
    """

    def __init__(self, meaning: Callable[[], Coroutine[Any, Any, Reason]] = _always_cancel) -> None:
        self._meaning = meaning
        self._request: Future[Reason] = Future()

    @property
    def reason(self) -> Reason | None:
        """Of the request; None before there is one."""
        return self._request.result() if self._request.done() else None

    def request(self, reason: Reason) -> None:
        """Ask for the end; returns at once. What is asked after the first time changes nothing."""
        with suppress(InvalidStateError):
            self._request.set_result(reason)

    async def cancels(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which a request cancels and which is waited for even then."""
        running = asyncio.ensure_future(work)
        self._requested().add_done_callback(lambda _: running.cancel())
        return await running

    async def unless_requested(self, step: Awaitable[T]) -> T:
        """The result of `step`; a request cancels it, and raises `CancellationRequested`."""
        running = asyncio.ensure_future(step)
        either: list[asyncio.Future[Any]] = [running, self._requested()]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            reason = await to_the_end(self._meaning())
            if reason.leaves_container:
                raise
            self.request(reason)
        finally:
            if not running.done():
                running.cancel()
        if self.reason is not None:
            raise CancellationRequested(self.reason)
        return running.result()

    def _requested(self) -> asyncio.Future[None]:
        """Done, in the loop of the caller, as soon as there is a request.

        Not `asyncio.wrap_future`, which a loop that is closed by then makes log an error.
        """
        loop = asyncio.get_running_loop()
        requested: asyncio.Future[None] = loop.create_future()

        def wake(_: object) -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(requested.set_result, None)

        self._request.add_done_callback(wake)
        return requested
