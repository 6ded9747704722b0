"""A request to end an attempt before its time."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from flows.outcome import StoppedBy
from flows.threads import apart

T = TypeVar("T")


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


async def to_the_end(step: Coroutine[Any, Any, T]) -> T:
    """Run a step that ends an attempt to its end, however often the caller is cancelled."""
    running = apart(step)
    while not running.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([running])
    return running.result()
