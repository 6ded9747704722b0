"""The runs that wait in the queues of a worker, as far as it knows them."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.events import Event
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter
from prefect.exceptions import ObjectNotFound
from prefect.states import Failed
from tenacity import AsyncRetrying, before_sleep_log, wait_exponential

from flows.errors import PayloadError
from flows.outcome import FailureClass, failed
from flows.payload.parse import parse
from flows.report import page
from flows.report.names import REPORT_KEY
from flows.report.sentences import state_message, state_name
from flows.runtime.store import AttemptStore
from flows.settings import HostSettings
from flows.units import Resources, memory_bytes
from flows.worker.admission import Waiting
from flows.worker.takeover import HOST_LABEL, WORKER_LABEL, host_of

# A run that was taken out, what it needs, and what was told of its waiting.
Taken = tuple[FlowRun, Resources, str | None]


@dataclass(slots=True)
class _Known:
    run: FlowRun
    waiting: Waiting
    since: float
    told: str | None = None


class Backlog:
    """Due runs in the order of their queues, each judged once."""

    def __init__(self, host: HostSettings) -> None:
        self._host = host
        self._known: dict[UUID, _Known] = {}

    def replace(self, runs: Iterable[FlowRun]) -> None:
        """Take what the server has now for all there is; what was judged before stays judged."""
        now = time.monotonic()
        self._known = {
            run.id: _Known(run, old.waiting, old.since, old.told)
            if (old := self._known.get(run.id)) and old.run.run_count == run.run_count
            else _Known(run, self._judge(run), now)
            for run in runs
        }

    def waiting(self) -> list[Waiting]:
        """Those that are due, in order."""
        now, clock = time.monotonic(), datetime.now(UTC)
        patience = self._host.patience_seconds
        return [
            replace(
                each.waiting,
                elsewhere=each.waiting.elsewhere if now - each.since < patience else None,
                seconds=now - each.since,
            )
            for each in self._known.values()
            if _due(each.run) <= clock
        ]

    def take(self, run_id: UUID) -> Taken:
        """Remove one."""
        known = self._known.pop(run_id)
        return known.run, known.waiting.needs, known.told

    def tell(self, run_id: UUID, sentence: str) -> FlowRun:
        """Note that the run's user is told what it waits for."""
        self._known[run_id].told = sentence
        return self._known[run_id].run

    def is_told(self, run_id: UUID) -> bool:
        """Whether the run waits for something, and its user knows."""
        return self._known[run_id].told is not None

    @property
    def told(self) -> int:
        """How many wait for something."""
        return sum(each.told is not None for each in self._known.values())

    @property
    def unjudged(self) -> int:
        """How many may start as soon as it is their turn, as far as is known."""
        return len(self._known) - self.told

    def seconds_to_next(self) -> float | None:
        """Until the next run that is not due yet is; None without one."""
        clock = datetime.now(UTC)
        ahead = [(_due(each.run) - clock).total_seconds() for each in self._known.values()]
        return min((seconds for seconds in ahead if seconds > 0), default=None)

    def _judge(self, run: FlowRun) -> Waiting:
        """What the run's payload asks for; a payload that is refused asks for nothing."""
        try:
            payload = parse(run.parameters["payload"])
        except (KeyError, PayloadError):
            return Waiting(run.id)
        limits = payload.task.container.resources
        needs = Resources(limits.cpus or 0.0, memory_bytes(limits.memory) if limits.memory else 0)
        goes_on = bool(run.run_count) and self._runs_here(str(run.id))
        host = host_of(run)
        elsewhere = host if host != self._host.worker and run.run_count else None
        missing = self._host.missing_capabilities(payload)
        return Waiting(run.id, needs, missing, goes_on, None if goes_on else elsewhere)

    def _runs_here(self, job_id: str) -> bool:
        try:
            attempt = AttemptStore(self._host.workdir, job_id).last()
        except (OSError, ValueError):
            # The flow reads it too, and says what is wrong with it.
            return False
        is_open = attempt is not None and attempt.executed is None and not attempt.published
        return attempt is not None and is_open and attempt.began


def _due(run: FlowRun) -> datetime:
    return run.next_scheduled_start_time or datetime.min.replace(tzinfo=UTC)


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


async def note_taken(
    client: PrefectClient, flow_run: FlowRun, worker: str, host: str, *, was_told: bool
) -> None:
    """Label the run with who carries it and on which host; it waits no longer."""
    await client.update_flow_run_labels(flow_run.id, {WORKER_LABEL: worker, HOST_LABEL: host})
    others = _other_tags(flow_run)
    if was_told or others != flow_run.tags:
        await client.update_flow_run(flow_run.id, tags=others)


async def tell_waiting(client: PrefectClient, flow_run: FlowRun, sentence: str) -> None:
    """Tag the run with what it waits for.

    Another worker may be about to claim the run: a state would undo that.
    """
    with contextlib.suppress(ObjectNotFound):
        await client.update_flow_run(flow_run.id, tags=[*_other_tags(flow_run), sentence])


async def reject(client: PrefectClient, flow_run: FlowRun, sentence: str) -> None:
    """End a run that can never start, with its report."""
    outcome = failed(FailureClass.LIMITS, sentence)
    await client.create_artifact(
        ArtifactCreate(
            key=REPORT_KEY,
            type="markdown",
            data=page.rejection_markdown(outcome),
            flow_run_id=flow_run.id,
        )
    )
    state: State[None] = Failed(name=state_name(outcome), message=state_message(outcome))
    await client.set_flow_run_state(flow_run.id, state)


def _other_tags(flow_run: FlowRun) -> list[str]:
    """The run's tags without what a worker, this one or an earlier, said of its waiting."""
    return [tag for tag in flow_run.tags if not tag.startswith("waiting for ")]
