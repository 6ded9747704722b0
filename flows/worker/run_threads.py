"""Threads with an event loop each, in which a worker runs its flows, one at a time."""

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from prefect.context import AsyncClientContext, SyncClientContext

from flows.runtime.api_client import RunClientContext

# How many threads wait for the next run, rather than end.
_MOST_IDLE = 8
T = TypeVar("T")
_Job = tuple[Callable[[], Coroutine[Any, Any, Any]], Future[Any]]


class RunThreads:
    """Pool of daemon threads, each with an event loop that runs one coroutine at a time.

    All runs of a thread share Prefect's client, and all threads its blocking one.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._context: contextvars.Context | None = None

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `work()`. A caller that is cancelled leaves it running."""
        done: Future[T] = Future()
        with self._lock:
            is_served, self._idle = self._idle > 0, max(0, self._idle - 1)
        if not is_served:
            # A daemon: a run that will not end must not keep its worker.
            threading.Thread(target=self._serve, daemon=True, name="flow run").start()
        self._jobs.put((work, done))
        return await asyncio.shield(asyncio.wrap_future(done))

    def close(self) -> None:
        """End the idle threads."""
        with self._lock:
            for _ in range(self._idle):
                self._jobs.put(None)
            self._idle = 0

    def _serve(self) -> None:
        # Taken first of all: a thread that cannot have a loop, for lack of descriptors, still has
        # somebody who waits for its first job.
        job = self._jobs.get()
        try:
            self._serve_from(job)
        except BaseException as raised:  # noqa: BLE001 - handed to whoever waits
            if job is not None and not job[1].done():
                job[1].set_exception(raised)

    def _serve_from(self, job: _Job | None) -> None:
        context, clients = self._copied_context(), contextlib.AsyncExitStack()
        with asyncio.Runner() as loop:
            while job is not None:
                work, done = job
                result = error = None
                try:
                    result = loop.run(_run_alone(work, clients), context=context)
                except BaseException as raised:  # noqa: BLE001 - handed to whoever waits
                    error = raised
                with self._lock:
                    is_reusable = error is None and self._idle < _MOST_IDLE
                    self._idle += is_reusable
                if error is None:
                    done.set_result(result)
                else:
                    done.set_exception(error)
                job = self._jobs.get() if is_reusable else None
            loop.run(clients.aclose(), context=context)

    def _copied_context(self) -> contextvars.Context:
        with self._lock:
            try:
                if self._context is None:
                    context = contextvars.copy_context()
                    context.run(SyncClientContext().__enter__)
                    self._context = context
                return self._context.copy()
            except Exception as error:  # noqa: BLE001 - the run will say what is wrong with the server
                logging.getLogger(__name__).warning("No API client to share: %s", error)
                return contextvars.copy_context()


async def _run_alone(
    work: Callable[[], Coroutine[Any, Any, T]], clients: contextlib.AsyncExitStack
) -> T:
    """The result of `work()`, after which nothing of it is left in the loop."""
    try:
        context = AsyncClientContext.get()
        if context is None or context.client.loop is not asyncio.get_running_loop():
            # In this task's context, which all runs of the thread copy.
            await clients.enter_async_context(RunClientContext())
        return await asyncio.create_task(work())
    finally:
        strays = asyncio.all_tasks() - {asyncio.current_task()}
        for stray in strays:
            stray.cancel()
        await asyncio.gather(*strays, return_exceptions=True)
