"""Take over flow runs of hosts whose worker sends no heartbeats any more, and start them again.

Each host looks after its own runs, which only it can adopt; the worker that a run is labelled with
is the one whose heartbeats count. Every worker of a pool that is heard of may act, one after the
other: whoever does first raises the run's fence and puts its name on it, looks whether it stands
there, and only then sets a state. One that dies in between leaves the rest to the next.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound

from flows.outcome import ABANDONED
from flows.runtime import ownership
from flows.runtime.api_client import propose
from flows.runtime.elsewhere import attempts_elsewhere
from flows.runtime.lifecycle import RecordView
from flows.runtime.run_states import (
    FENCE_LABEL,
    TAKER_LABEL,
    cancelled_state,
    fence_of,
    final_state,
    history_of,
    host_of,
    taken_over_state,
    view_of,
    worker_of,
)
from flows.worker.run_notes import read_runs
from flows.workspace.logs import Logger

# Of longer gaps between two looks, nobody knows who was silent in them: the server may have been.
_GAP_SECONDS = 30.0
LOOK_SECONDS = 10.0
# How long each of the workers that are heard of leaves the work to those before it by name, and how
# long one run may take.
_TURN_SECONDS, _RUN_SECONDS = 20.0, 15.0
_AT_ONCE = 10
_READ_SECONDS = 60.0
_BEGUN = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)


@dataclass(frozen=True, slots=True)
class _SeenHeartbeat:
    heartbeat: datetime | None
    first: float
    last: float


class Silence:
    """For how long workers have not been heard of, by the observer's own clock.

    Counted from the first of many looks that all found the same heartbeat: after an absence of the
    server, everybody's last one is old.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, gap_seconds: float = _GAP_SECONDS
    ) -> None:
        self._clock = clock
        self._gap_seconds = gap_seconds
        self._looks: dict[str, _SeenHeartbeat] = {}

    def now(self) -> float:
        return self._clock()

    def seconds(self, worker: str, heartbeat: datetime | None) -> float:
        """Take a look: the worker's last heartbeat now. For how long it has been silent."""
        now, old = self._clock(), self._looks.get(worker)
        is_new = old is None or old.heartbeat != heartbeat or now - old.last > self._gap_seconds
        first = now if old is None or is_new else old.first
        self._looks[worker] = _SeenHeartbeat(heartbeat, first, now)
        return now - first


class TakeOver:
    """What a worker does for the runs of its pool's other hosts, as long as it lives."""

    def __init__(
        self,
        client: PrefectClient,
        logger: Logger,
        pool: str,
        names: tuple[str, str],
        patience_seconds: float,
        silence: Silence | None = None,
    ) -> None:
        """`names` are those of this host and this worker."""
        self._client = client
        self._logger = logger
        self._pool = pool
        self._host, self.worker = names
        self._patience_seconds = patience_seconds
        self._silence = silence or Silence()
        self._seen: Mapping[UUID, UUID | None] = {}
        # Workers of these runs that the server has no heartbeats of.
        self._unlisted: Set[str] = frozenset()
        self._read_at = -math.inf

    async def look(self) -> list[str]:
        """Take the runs of silent hosts that it is this worker's turn to; a sentence each.

        One that cannot be taken keeps it from no other.
        """
        heartbeats = await _heartbeats(self._client, self._pool)
        names = {*heartbeats, *self._unlisted}
        silent = {name: self._silence.seconds(name, heartbeats.get(name)) for name in names}
        heard = {name for name in heartbeats if silent[name] <= self._patience_seconds}
        turn = sorted({self.worker, *heard}).index(self.worker)
        due = self._patience_seconds + turn * _TURN_SECONDS
        if not self._is_time_to_read(silent.values(), due):
            return []
        runs = await self._runs_elsewhere()
        self._unlisted = {worker_of(run) for run in runs} - heartbeats.keys()
        # A state that is new may be one whose labels are still on their way.
        lost = [
            run
            for run in runs
            if silent.get(worker_of(run), 0.0) > due and self._seen.get(run.id) == run.state_id
        ]
        self._seen = {run.id: run.state_id for run in runs}
        at_once = asyncio.Semaphore(_AT_ONCE)
        told = await asyncio.gather(
            *(self._take(run, heartbeats.get(worker_of(run)), at_once) for run in lost)
        )
        return [sentence for sentence in told if sentence]

    def _is_time_to_read(self, silent: Iterable[float], due: float) -> bool:
        """Whether to ask for runs: each minute, and at every look while a worker becomes silent."""
        now, soon = self._silence.now(), self._patience_seconds - _GAP_SECONDS
        if now - self._read_at < _READ_SECONDS and not any(
            soon <= seconds <= due + 2 * _READ_SECONDS for seconds in silent
        ):
            return False
        self._read_at = now
        return True

    async def _runs_elsewhere(self) -> list[FlowRun]:
        runs = await read_runs(self._client, *_BEGUN)
        # Those that wait, and of which something may be where they ran before.
        runs += await read_runs(self._client, StateType.SCHEDULED, has_begun=True)
        return [run for run in runs if self._is_elsewhere(run)]

    def _is_elsewhere(self, run: FlowRun) -> bool:
        is_labelled = bool(worker_of(run)) and worker_of(run) != self.worker
        return is_labelled and run.work_pool_name == self._pool and host_of(run) != self._host

    async def _take(
        self, seen: FlowRun, heartbeat: datetime | None, at_once: asyncio.Semaphore
    ) -> str | None:
        try:
            async with at_once, asyncio.timeout(_RUN_SECONDS):
                if not await self._may_be_there(seen):
                    return None
                if (run := await self._fenced(seen, heartbeat)) is None:
                    return None
                await self._go_on(run)
                return f"{run.id}: its host {host_of(seen) or worker_of(seen)} is silent"
        except Exception as error:  # noqa: BLE001 - nor must one run keep it from the others
            self._logger.warning("Could not take over %s: %r", seen.id, error)
            return None

    async def _may_be_there(self, run: FlowRun) -> bool:
        """Whether something of it may be on its host: of a run that waits, its states tell."""
        if run.state is None or not run.state.is_scheduled():
            return True
        states = await history_of(self._client, run.id)
        return ownership.home_of(states, host_of(run), run.id) is not None

    async def _fenced(self, seen: FlowRun, heartbeat: datetime | None) -> FlowRun | None:
        """The run behind a fence that is this worker's; None where it is not as it was seen, its
        worker was heard of, or another one was the last to put its name there."""
        run = await self._client.read_flow_run(seen.id)
        if (run.state_id, worker_of(run)) != (seen.state_id, worker_of(seen)):
            return None
        # Its host stays its label's: heard of again, it goes on with what is not taken after all.
        fence = fence_of(run) + 1
        mark: dict[str, bool | int | float | str]
        mark = {FENCE_LABEL: fence, TAKER_LABEL: self.worker}
        await self._client.update_flow_run_labels(run.id, mark)
        heartbeats = await _heartbeats(self._client, self._pool)
        fenced = await self._client.read_flow_run(run.id)
        labels = fenced.labels or {}
        is_ours = all(labels.get(key) == value for key, value in mark.items())
        is_silent = heartbeats.get(worker_of(run)) == heartbeat
        return fenced if is_ours and is_silent and fenced.state_id == run.state_id else None

    async def _go_on(self, run: FlowRun) -> None:
        """Start the fenced run again, or end it, as `ownership.take_over` says."""
        view = view_of(run, await history_of(self._client, run.id), RecordView())
        step = ownership.take_over(view) if view else ownership.TakeOver.LEAVE
        if view is None or step is ownership.TakeOver.LEAVE:
            return
        if step is ownership.TakeOver.START_ELSEWHERE:
            state = taken_over_state()
        else:
            await attempts_elsewhere(self._client, run.id)
            is_cancelled = step is ownership.TakeOver.SET_CANCELLED
            state = cancelled_state(None) if is_cancelled else final_state(ABANDONED)
        if step is ownership.TakeOver.SET_AGAIN and view.replaced:
            state = view.replaced
        transition = ownership.take_over_id(run.id, fence_of(run))
        await propose(self._client, run.id, state, transition)


async def _heartbeats(client: PrefectClient, pool: str) -> Mapping[str, datetime]:
    try:
        workers = await client.read_workers_for_work_pool(pool)
    except ObjectNotFound:
        return {}
    return {each.name: each.last_heartbeat_time for each in workers if each.last_heartbeat_time}
