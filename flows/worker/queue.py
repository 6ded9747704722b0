"""A pool's queues as a worker asks for them: what is due by the server's clock, in their order."""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse

# The most that the server gives at a time.
_PAGE = 200
# By how much the `Date` of an answer may be old: a busy server renews it seldom.
_AGE = timedelta(seconds=5)
_STEP = timedelta(microseconds=1)


class ServerClock:
    """The server's time, by the header `Date` of its answers: this host's own is compared with
    nothing of the server's."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def hear(self, date: str | None, asked_at: datetime, heard_at: datetime) -> None:
        """Take the `Date` of an answer; as long as both clocks may agree, they are taken to."""
        if date is not None:
            told = parsedate_to_datetime(date)
            self._ahead = min(max(timedelta(0), told - heard_at), told + _AGE - asked_at)


@dataclass(slots=True)
class PoolQueues:
    """The queues of a pool, or those of `names`; `due_later` are the times of runs that are not due
    yet, as far as somebody asked."""

    client: PrefectClient
    pool: str
    names: Collection[str]
    prefetch_seconds: float
    page: int = _PAGE
    clock: ServerClock = field(default_factory=ServerClock)
    due_later: list[datetime] = field(default_factory=list)

    async def due(self, limit: int) -> list[FlowRun]:
        """The first that are due; what is due soon takes no place among them."""
        soon = self.clock.now() + timedelta(seconds=self.prefetch_seconds)
        found = await self._ask(self.names, limit, soon)
        moment = self.clock.now()
        self.due_later = sorted(_due_at(run) for run in found if _due_at(run) > moment)
        return await self._ask(self.names, limit, moment) if self.due_later else found

    async def behind(self, seen: Collection[UUID]) -> AsyncIterator[list[FlowRun]]:
        """Page by page, those that are due and not among the `seen` ones, queue by queue: what is
        in front of them, and a limit of queue or pool, hide none."""
        known = set(seen)
        queues = await self.client.read_work_queues(work_pool_name=self.pool, limit=_PAGE)
        for queue in sorted(queues, key=lambda each: (each.priority or 0, each.name)):
            if self.names and queue.name not in self.names:
                continue
            after: datetime | None = None
            while page := await self._ask([queue.name], self.page, self.clock.now(), after):
                new = [run for run in page if run.id not in known]
                known.update(run.id for run in new)
                last = _due_at(page[-1])
                # Those of the last moment are given again: some of them may have been cut off.
                after = last + _STEP if after is not None and not new else last
                if new:
                    yield new

    def seconds_to_next(self) -> float | None:
        """Until the next run that is not due yet is; None where none is known."""
        ahead = [(each - self.clock.now()).total_seconds() for each in self.due_later]
        return min((seconds for seconds in ahead if seconds > 0), default=None)

    async def _ask(
        self,
        names: Collection[str],
        limit: int,
        before: datetime,
        after: datetime | None = None,
    ) -> list[FlowRun]:
        # Prefect's own call takes no limit.
        asked_at = datetime.now(UTC)
        body = {"work_queue_names": sorted(names), "scheduled_before": str(before), "limit": limit}
        response = await self.client.request(
            "POST",
            "/work_pools/{name}/get_scheduled_flow_runs",
            path_params={"name": self.pool},
            json=body | ({"scheduled_after": str(after)} if after else {}),
        )
        self.clock.hear(response.headers.get("Date"), asked_at, datetime.now(UTC))
        return [
            each.flow_run for each in WorkerFlowRunResponse.model_validate_list(response.json())
        ]


def _due_at(run: FlowRun) -> datetime:
    return run.next_scheduled_start_time or datetime.min.replace(tzinfo=UTC)
