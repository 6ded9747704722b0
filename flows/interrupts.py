"""A request to end an attempt before its time."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from flows.outcomes import StoppedBy

T = TypeVar("T")


class Interrupted(Exception):
    """The attempt is to end; `why` says on whose word."""

    def __init__(self, why: StoppedBy) -> None:
        super().__init__(str(why))
        self.why = why


class Interrupt:
    """At most one request, the first; made and waited for in one event loop."""

    def __init__(self) -> None:
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
            if self._request.done():
                raise Interrupted(self._request.result())
            return running.result()
        finally:
            running.cancel()
