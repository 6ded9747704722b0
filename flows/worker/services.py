"""What a worker does beside its claim loop: SIGTERM, its pool's events, the sweep, the tidying, and
the restart of runs whose host sends no heartbeats any more.

Each host looks after its own runs, which only it can adopt; the worker that labelled a run is the
one whose heartbeats count.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import UUID

from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter
from tenacity import AsyncRetrying, before_sleep_log, wait_exponential

from flows.worker.cleanup import tidy
from flows.worker.sweep import SweptHost, sweep
from flows.worker.takeover import LOOK_SECONDS, TakeOver
from flows.workspace.logs import Logger

_CANCELLING = "prefect.flow-run.Cancelling"
_WORK = ["prefect.flow-run.Scheduled", "prefect.flow-run.AwaitingRetry", "prefect.work-pool.ready"]


def cancel_on_sigterm(logger: Logger) -> None:
    """Have SIGTERM cancel the calling task; a second one ends the process at once.

    Prefect's own handler sends a SIGINT, which a shell's background processes ignore.
    """
    loop, serving = asyncio.get_running_loop(), asyncio.current_task()

    def end() -> None:
        loop.remove_signal_handler(signal.SIGTERM)
        logger.info("Told to stop: taking no more runs, handing over what goes on")
        if serving is not None:
            serving.cancel()

    # Only the main thread hears signals.
    with contextlib.suppress(ValueError, RuntimeError):
        loop.add_signal_handler(signal.SIGTERM, end)


async def follow_pool(
    pool_id: UUID, on_work: Callable[[], None], on_cancel: Callable[[UUID], None]
) -> None:
    """Subscribe to the pool's events by websocket, until cancelled; connect again after a break."""
    wanted = EventFilter(
        event=EventNameFilter(name=[*_WORK, _CANCELLING]),
        any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{pool_id}"]),
    )

    async def follow() -> None:
        async with get_events_subscriber(filter=wanted) as events:
            async for event in events:
                if event.event == _CANCELLING:
                    on_cancel(UUID(event.resource.id.removeprefix("prefect.flow-run.")))
                else:
                    on_work()
        raise ConnectionError("the server closed the event stream")

    retrying = AsyncRetrying(
        wait=wait_exponential(multiplier=0.5, max=10),
        before_sleep=before_sleep_log(logging.getLogger(__name__), logging.WARNING),
    )
    await retrying(follow)


async def sweep_every_minute(host: SweptHost) -> None:
    """Sweep this host, at once and then each minute; the scheduled sweep looks after any one."""
    await _every(60.0, "sweep", partial(sweep, host, 60.0), host.logger)


async def take_over_always(take_over: TakeOver, logger: Logger) -> None:
    """Look for silent hosts, often: a longer gap between two looks tells of nobody's silence."""

    async def look() -> None:
        for sentence in await take_over.look():
            logger.info(sentence)

    await _every(LOOK_SECONDS, "look for silent hosts", look, logger)


async def tidy_every_minute(host: SweptHost) -> None:
    """Finish uploads, and remove what has been kept long enough."""
    await _every(60.0, "tidy up", partial(tidy, host), host.logger)


async def _every(
    seconds: float, doing: str, look: Callable[[], Awaitable[object]], logger: Logger
) -> None:
    while True:
        try:
            await look()
        except Exception as error:  # noqa: BLE001 - the next one comes soon
            logger.warning("Could not %s: %s", doing, error)
        await asyncio.sleep(seconds)
