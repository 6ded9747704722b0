"""What a worker does beside its claim loop: SIGTERM, its pool's events, the sweep, the tidying, and
the restart of runs whose host sends no heartbeats any more.

Each host looks after its own runs, which only it can adopt; the worker that labelled a run is the
one whose heartbeats count.
"""

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import UUID

from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter

from flows.worker.cleanup import tidy
from flows.worker.sweep import SweptHost, sweep
from flows.worker.takeover import LOOK_SECONDS, TakeOver
from flows.workspace.logs import Logger

# What a person may say of a run that runs; that one was deleted, no event tells.
_SAID = [
    f"prefect.flow-run.{name}"
    for name in ("Cancelling", "Cancelled", "Suspended", "Paused", "Completed", "Failed", "Crashed")
]
_WORK = [
    *(f"prefect.flow-run.{name}" for name in ("Scheduled", "AwaitingRetry", "Resuming")),
    "prefect.work-pool.ready",
]
_LONGEST_BREAK_SECONDS = 10.0
# Enough for five thousand runs; programs that close all they may have open take long with more.
_MOST_DESCRIPTORS = 65536


def allow_descriptors(logger: Logger) -> None:
    """Raise the soft limit of open files (RLIMIT_NOFILE) towards the hard one: a run that goes on
    has a dozen."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        logger.info("This worker may open %s files now, and could open %s", most, soft)


def cancel_on_sigterm(logger: Logger, claim_nothing_more: Callable[[], None]) -> None:
    """Have SIGTERM cancel the calling task; a second one ends the process at once.

    Prefect's own handler sends a SIGINT, which a shell's background processes ignore.
    """
    loop, serving = asyncio.get_running_loop(), asyncio.current_task()

    def end() -> None:
        loop.remove_signal_handler(signal.SIGTERM)
        claim_nothing_more()
        logger.info("Told to stop: taking no more runs, handing over what goes on")
        if serving is not None:
            serving.cancel()

    # Only the main thread hears signals.
    with contextlib.suppress(ValueError, RuntimeError):
        loop.add_signal_handler(signal.SIGTERM, end)


async def follow_pool(
    pool_id: UUID, on_work: Callable[[], None], on_said: Callable[[UUID], None]
) -> None:
    """Subscribe to the pool's events by websocket, until cancelled; connect again after a break."""
    wanted = EventFilter(
        event=EventNameFilter(name=[*_WORK, *_SAID]),
        any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{pool_id}"]),
    )
    breaks = 0
    while True:
        try:
            async with get_events_subscriber(filter=wanted) as events:
                breaks = 0
                # What happened during the break, no event tells any more.
                on_work()
                async for event in events:
                    if event.event in _SAID:
                        on_said(UUID(event.resource.id.removeprefix("prefect.flow-run.")))
                    else:
                        on_work()
            error: Exception = ConnectionError("the server closed the event stream")
        except Exception as raised:  # noqa: BLE001 - of a server that is away comes almost anything
            error = raised
        pause = min(_LONGEST_BREAK_SECONDS, 0.5 * 2**breaks)
        breaks += 1
        logging.getLogger(__name__).warning(
            "No events of the pool: %s; asked for again in %s s", error, pause
        )
        await asyncio.sleep(pause)


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
