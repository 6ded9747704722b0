"""Threads that carry flow runs, one at a time each, with an event loop and an API client to keep.

Prefect's engine blocks its loop here and there, so runs that shared one would wait for each other.
A client of its own for every run would cost a connection, a token and a version check each. Where
Prefect's engine wants a blocking client, all threads share one, which it is safe to do.
"""

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from prefect.context import AsyncClientContext, SyncClientContext

T = TypeVar("T")

_Job = tuple[Callable[[], Coroutine[Any, Any, Any]], Future[Any]]

# How many wait for the next run, rather than end.
_IDLE = 8


class Lanes:
    """Carries coroutines, each in a thread and loop where no other runs. Used from one loop."""

    def __init__(self) -> None:
        self._idle: list[_Lane] = []
        self._lock = threading.Lock()
        self._shared: contextvars.Context | None = None

    async def carry(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `work()`. A caller that is cancelled leaves it running."""
        lane = self._idle.pop() if self._idle else _Lane(self._context)
        done = lane.begin(work)
        done.add_done_callback(lambda _: self._give_back(lane))
        return await asyncio.shield(asyncio.wrap_future(done))

    def close(self) -> None:
        """End the lanes that carry nothing."""
        while self._idle:
            self._idle.pop().end()

    def _context(self) -> contextvars.Context:
        """A context in which Prefect finds the blocking client. Called in a lane's thread."""
        with self._lock:
            if self._shared is None:
                shared = contextvars.copy_context()
                shared.run(SyncClientContext().__enter__)
                self._shared = shared
            return self._shared.copy()

    def _give_back(self, lane: "_Lane") -> None:
        if lane.is_broken or len(self._idle) >= _IDLE:
            lane.end()
        else:
            self._idle.append(lane)


class _Lane:
    def __init__(self, context: Callable[[], contextvars.Context]) -> None:
        self.is_broken = False
        self._context = context
        self._jobs: Future[_Job | None] = Future()
        # A daemon: a run that will not end must not keep its worker.
        threading.Thread(target=self._work, daemon=True, name="flow run").start()

    def begin(self, work: Callable[[], Coroutine[Any, Any, T]]) -> "Future[T]":
        done: Future[T] = Future()
        self._jobs.set_result((work, done))
        return done

    def end(self) -> None:
        self._jobs.set_result(None)

    def _work(self) -> None:
        try:
            context = self._context()
        except Exception as error:  # noqa: BLE001 - the run will say what is wrong with the server
            logging.getLogger(__name__).warning("No API client to share: %s", error)
            context = contextvars.copy_context()
        context.run(asyncio.run, self._serve())

    async def _serve(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            has_client = False
            while (job := await asyncio.wrap_future(self._jobs)) is not None:
                self._jobs = Future()
                work, done = job
                try:
                    if not has_client:
                        # In this task's context, where every run finds it.
                        await stack.enter_async_context(AsyncClientContext.get_or_create())
                        has_client = True
                    result = await asyncio.create_task(work())
                except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                    self.is_broken = True
                    await _end_strays()
                    done.set_exception(error)
                else:
                    await _end_strays()
                    done.set_result(result)


async def _end_strays() -> None:
    """Cancel what a run left behind in the loop."""
    strays = asyncio.all_tasks() - {asyncio.current_task()}
    for stray in strays:
        stray.cancel()
    await asyncio.gather(*strays, return_exceptions=True)
