"""What a worker remembers of runs that wait: since when, what was told, how often a claim was
refused; of the runs themselves nothing, for these are claimed from the server's answer alone."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

from flows.errors import PayloadError
from flows.payload.parse import parse
from flows.payload.policy_check import missing_capabilities
from flows.runtime.ownership import home_of
from flows.runtime.run_states import history_of, host_of
from flows.runtime.store import AttemptStore, RecordUnreadable
from flows.settings import HostSettings
from flows.units import Resources, memory_bytes
from flows.worker.admission import QueuedTask

# How long nobody may have seen a run in its queue before it is forgotten, or taken to be gone.
_FORGET_SECONDS, _GONE_SECONDS = 900.0, 30.0
_LONGEST_PAUSE_SECONDS = 60.0


@dataclass(slots=True)
class _Judgement:
    """What is known of a run as long as its state is `state_id`."""

    state_id: UUID | None
    run_count: int
    task: QueuedTask
    since: float
    seen: float
    told: str = ""
    refusals: int = 0
    again_at: float = 0.0


class Judgements:
    """What is known of the runs in a pool's queues, each payload read once."""

    def __init__(self, host: HostSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._clock = clock
        self._known: dict[UUID, _Judgement] = {}

    async def tasks(self, client: PrefectClient, runs: Sequence[FlowRun]) -> list[QueuedTask]:
        """What these runs ask for, in their order, but for those that were refused just now."""
        moment, tasks = self._clock(), list[QueuedTask]()
        self._forget(moment)
        for run in runs:
            known = self._known.get(run.id)
            if known is None or known.state_id != run.state_id:
                known = await self._judged(client, run, known)
                self._known[run.id] = known
            known.seen = moment
            if moment >= known.again_at:
                tasks.append(replace(known.task, waited_seconds=moment - known.since))
        return tasks

    async def _judged(
        self, client: PrefectClient, run: FlowRun, before: _Judgement | None
    ) -> _Judgement:
        task, moment = await self._task(client, run), self._clock()
        if before is not None and before.run_count == run.run_count:
            # Called late, put off or given back: it waits as it did.
            return replace(before, state_id=run.state_id, task=task)
        return _Judgement(run.state_id, run.run_count, task, since=moment, seen=moment)

    def _forget(self, moment: float) -> None:
        gone = [key for key, each in self._known.items() if moment - each.seen > _FORGET_SECONDS]
        for run_id in gone:
            del self._known[run_id]

    def tells(self, run_id: UUID, sentence: str) -> bool:
        """Note what is said of a run that waits; whether that is new."""
        known = self._known[run_id]
        is_new, known.told = known.told != sentence, sentence
        return is_new

    def refused(self, run_id: UUID) -> bool:
        """Note that the run could not be begun, which makes a pause; whether that is new."""
        if (known := self._known.get(run_id)) is None:
            return False
        known.refusals += 1
        pause = min(_LONGEST_PAUSE_SECONDS, 2.0 ** min(known.refusals, 10))
        known.again_at = self._clock() + pause
        return known.refusals == 1

    def take(self, run_id: UUID) -> bool:
        """Note that the run waits no more; whether something was said of what it waited for."""
        known = self._known[run_id]
        was_told, known.told = bool(known.told), ""
        return was_told

    @property
    def waiting(self) -> int:
        """How many wait for more than their turn, as far as is known."""
        moment = self._clock()
        return sum(
            bool(each.told) or each.again_at > moment
            for each in self._known.values()
            if moment - each.seen < _GONE_SECONDS
        )

    def may_fit(self, free: Resources, seen: set[UUID]) -> bool:
        """Whether one that was not `seen` now, and waits, may start in the room that is free."""
        moment = self._clock()
        return any(
            each.told and not free.lacks(each.task.needs) and not each.task.missing
            for run_id, each in self._known.items()
            if run_id not in seen and moment - each.seen < _GONE_SECONDS
        )

    async def _task(self, client: PrefectClient, run: FlowRun) -> QueuedTask:
        """What the run's payload asks for; a payload that is refused asks for nothing."""
        try:
            payload = parse(run.parameters["payload"])
        except (KeyError, PayloadError):
            return QueuedTask(run.id)
        limits = payload.task.container.resources
        return QueuedTask(
            run.id,
            Resources(limits.cpus or 0.0, memory_bytes(limits.memory) if limits.memory else 0),
            missing_capabilities(payload, self._host.capabilities),
            runs_here=bool(run.run_count) and self._runs_here(str(run.id)),
            other_host=await self._other_home(client, run),
        )

    def _runs_here(self, job_id: str) -> bool:
        try:
            attempt = AttemptStore(self._host.workdir, job_id).last()
        except (OSError, RecordUnreadable):
            # The flow reads it too, and says what is wrong with it.
            return False
        return bool(attempt and attempt.began and not attempt.published and not attempt.executed)

    async def _other_home(self, client: PrefectClient, run: FlowRun) -> str | None:
        """Another host that may have something of the run: one that it has not ended on."""
        label = host_of(run)
        if not run.run_count or label in (None, self._host.worker):
            return None
        return home_of(await history_of(client, run.id), label, run.id)
