"""Blocking calls off the event loop, in threads that never hold the process back."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Run `function` in a daemon thread of its own and return its result.

    Unlike with an executor it uses up no pool, and the loop does not wait for it at its end.
    """
    return await begin(function)


def apart(step: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Run a coroutine in a thread and an event loop of its own, where nobody can cancel it."""
    return begin(lambda: asyncio.run(step))


def begin(function: Callable[[], T]) -> asyncio.Future[T]:
    """Start `function` in a daemon thread of its own."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, error = None, None
        try:
            result = context.run(function)
        except BaseException as raised:  # noqa: BLE001 - handed to the caller, whatever it is
            error = raised
        # A closed loop means that nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(deliver, result, error)

    threading.Thread(target=work, daemon=True, name=f"container-task {function!r:.60}").start()
    return future


async def to_the_end(step: Coroutine[Any, Any, T]) -> T:
    """Run a step that ends an attempt to its end, however often the caller is cancelled."""
    running = apart(step)
    while not running.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([running])
    return running.result()
