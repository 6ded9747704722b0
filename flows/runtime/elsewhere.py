"""What was done for a run on other hosts, by the events that every host sees."""

from collections.abc import Collection
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from flows.report.events import FINISHED, STARTED, emit_finished_of


async def attempts_elsewhere(
    client: PrefectClient, run_id: UUID, known: Collection[int] = ()
) -> int:
    """The number of the last attempt of a run, by the events of all hosts; 0 where there is none.

    Emits the `finished` events that are missing but those of the `known` ones.
    """
    of_the_run = EventFilter(
        event=EventNameFilter(name=[STARTED, FINISHED]),
        resource=EventResourceFilter(id=[f"moonmind.task.{run_id}"]),
    )
    page = await client.read_events(filter=of_the_run, limit=50)
    ended = {each.payload["attempt"] for each in page.events if each.event == FINISHED}
    ended |= set(known)
    for each in page.events:
        if each.event == STARTED and each.payload["attempt"] not in ended:
            seconds = (datetime.now(UTC) - each.occurred).total_seconds()
            emit_finished_of(str(run_id), each.payload, round(seconds, 3))
    return max((int(each.payload["attempt"]) for each in page.events), default=0)
