"""What a work pool's event stream tells its worker: that there is work, and that a run is canceled.

The stream may be down, and loses what happens meanwhile; whoever listens must ask now and then.
"""

import logging
from collections.abc import Callable
from uuid import UUID

from prefect.events import Event
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter
from tenacity import AsyncRetrying, before_sleep_log, wait_exponential

_CANCELLING = "prefect.flow-run.Cancelling"
_WORK = [
    "prefect.flow-run.Scheduled",
    "prefect.flow-run.AwaitingRetry",
    "prefect.work-pool.ready",
]


async def follow_pool(
    pool_id: UUID, on_work: Callable[[], None], on_cancel: Callable[[UUID], None]
) -> None:
    """Call back for every event of the pool, until cancelled; connect again after every break."""
    wanted = EventFilter(
        event=EventNameFilter(name=[*_WORK, _CANCELLING]),
        any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{pool_id}"]),
    )

    async def follow() -> None:
        async with get_events_subscriber(filter=wanted) as events:
            async for event in events:
                _tell(event, on_work, on_cancel)
        raise ConnectionError("the server closed the event stream")

    retrying = AsyncRetrying(
        wait=wait_exponential(multiplier=0.5, max=10),
        before_sleep=before_sleep_log(logging.getLogger("flows.worker.worker"), logging.WARNING),
    )
    await retrying(follow)


def _tell(event: Event, on_work: Callable[[], None], on_cancel: Callable[[UUID], None]) -> None:
    if event.event == _CANCELLING:
        on_cancel(UUID(event.resource.id.removeprefix("prefect.flow-run.")))
    else:
        on_work()
