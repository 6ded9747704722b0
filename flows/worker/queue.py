"""The worker's view of its pool's queues: due flow runs in their order, each payload read once."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse

from flows.errors import PayloadError
from flows.payload.parse import parse
from flows.payload.policy_check import missing_capabilities
from flows.runtime.run_states import host_of
from flows.runtime.store import AttemptStore, RecordUnreadable
from flows.settings import HostSettings
from flows.units import Resources, memory_bytes
from flows.worker.admission import QueuedTask


@dataclass(slots=True)
class QueuedRun:
    """A flow run that no worker has claimed; `is_blocked` once it is tagged with what it awaits."""

    flow_run: FlowRun
    task: QueuedTask
    since: float
    is_blocked: bool = False

    @property
    def due_at(self) -> datetime:
        return self.flow_run.next_scheduled_start_time or datetime.min.replace(tzinfo=UTC)


class RunQueue:
    """Scheduled runs of a pool, as the server gave them last."""

    def __init__(self, host: HostSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._clock = clock
        self._runs: dict[UUID, QueuedRun] = {}

    def replace(self, runs: Iterable[FlowRun]) -> None:
        """Take what the server has now for all there is; what is known of a run stays known."""
        self._runs = {
            run.id: self._known(run) or QueuedRun(run, self._task(run), self._clock())
            for run in runs
        }

    def _known(self, run: FlowRun) -> QueuedRun | None:
        known = self._runs.get(run.id)
        if known is None or known.flow_run.run_count != run.run_count:
            return None
        return replace(known, flow_run=run)

    def due(self) -> list[QueuedTask]:
        """What may start now, in order, each with the seconds for which it has waited."""
        moment = datetime.now(UTC)
        return [self._aged(each) for each in self._runs.values() if each.due_at <= moment]

    def _aged(self, queued: QueuedRun) -> QueuedTask:
        waited = self._clock() - queued.since
        other_host = queued.task.other_host if waited < self._host.patience_seconds else None
        return replace(queued.task, waited_seconds=waited, other_host=other_host)

    def pop(self, run_id: UUID) -> QueuedRun:
        return self._runs.pop(run_id)

    def block(self, run_id: UUID) -> FlowRun | None:
        """Note that a run waits for more than its turn; returns it where that is new."""
        queued = self._runs[run_id]
        was_blocked, queued.is_blocked = queued.is_blocked, True
        return None if was_blocked else queued.flow_run

    @property
    def blocked(self) -> int:
        return sum(each.is_blocked for each in self._runs.values())

    @property
    def startable(self) -> int:
        """How many may start as soon as it is their turn, as far as is known."""
        return len(self._runs) - self.blocked

    def seconds_to_next(self) -> float | None:
        """Until the next run that is not due yet is; None without one."""
        moment = datetime.now(UTC)
        ahead = [(each.due_at - moment).total_seconds() for each in self._runs.values()]
        return min((seconds for seconds in ahead if seconds > 0), default=None)

    def _task(self, run: FlowRun) -> QueuedTask:
        """What the run's payload asks for; a payload that is refused asks for nothing."""
        try:
            payload = parse(run.parameters["payload"])
        except (KeyError, PayloadError):
            return QueuedTask(run.id)
        limits = payload.task.container.resources
        host, began = host_of(run), bool(run.run_count)
        return QueuedTask(
            run.id,
            Resources(limits.cpus or 0.0, memory_bytes(limits.memory) if limits.memory else 0),
            missing_capabilities(payload, self._host.capabilities),
            runs_here=began and self._runs_here(str(run.id)),
            other_host=host if began and host != self._host.worker else None,
        )

    def _runs_here(self, job_id: str) -> bool:
        try:
            attempt = AttemptStore(self._host.workdir, job_id).last()
        except (OSError, RecordUnreadable):
            # The flow reads it too, and says what is wrong with it.
            return False
        return bool(attempt and attempt.began and not attempt.published and not attempt.executed)


async def fetch_scheduled(
    client: PrefectClient, pool: str, queues: Iterable[str], before: datetime, limit: int
) -> list[FlowRun]:
    """Ask the server for a pool's scheduled runs, in the order of its queues."""
    # Prefect's own call takes no limit.
    response = await client.request(
        "POST",
        "/work_pools/{name}/get_scheduled_flow_runs",
        path_params={"name": pool},
        json={"work_queue_names": sorted(queues), "scheduled_before": str(before), "limit": limit},
    )
    found = WorkerFlowRunResponse.model_validate_list(response.json())
    return [each.flow_run for each in found]
