"""Take over flow runs of hosts whose worker sends no heartbeats any more, and start them again.

Each host looks after its own runs, which only it can adopt; the worker that labelled a run is the
one whose heartbeats count.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from flows.runtime.recovery import attempts_elsewhere, may_start_again, start_again
from flows.runtime.run_states import HOST_LABEL, host_of
from flows.worker.run_notes import read_runs, worker_of

# Of longer gaps between two looks, nobody knows who was silent in them: the server may have been.
_GAP_SECONDS = 150.0


@dataclass(frozen=True, slots=True)
class _SeenHeartbeat:
    heartbeat: datetime | None
    first: float
    last: float


class Silence:
    """Which workers have not been heard of for so many seconds, by the observer's own clock.

    Counted from the first of many looks that all found the same heartbeat: after an absence of the
    server, everybody's last one is old.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._looks: dict[str, _SeenHeartbeat] = {}

    def covers(self, worker: str, heartbeat: datetime | None) -> bool:
        """Take a look: the worker's last heartbeat now. Whether it has been silent for so long."""
        now, old = self._clock(), self._looks.get(worker)
        is_same = old is not None and old.heartbeat == heartbeat and now - old.last <= _GAP_SECONDS
        first = old.first if old is not None and is_same else now
        self._looks[worker] = _SeenHeartbeat(heartbeat, first, now)
        return is_same and now - first >= self._seconds


async def take_over(
    client: PrefectClient, pool: str, host: str, worker: str, silence: Silence
) -> AsyncIterator[str]:
    """Start the runs of a pool's silent hosts, not `host`, again; a sentence each.

    Of the workers that are heard of, the first by name acts: two would undo what the other did.
    """
    heartbeats = await _heartbeats(client, pool)
    silent = {name for name, heartbeat in heartbeats.items() if silence.covers(name, heartbeat)}
    if worker != min({worker, *heartbeats.keys() - silent}):
        return
    for run in await read_runs(client, StateType.RUNNING):
        name = host_of(run)
        if run.work_pool_name != pool or name is None or name == host:
            continue
        known = worker_of(run)
        if known not in heartbeats and silence.covers(known, None):
            silent.add(known)
        if known in silent and await _start_elsewhere(client, run, name):
            yield f"{run.id}: its host {name} is silent"


async def _heartbeats(client: PrefectClient, pool: str) -> Mapping[str, datetime]:
    try:
        workers = await client.read_workers_for_work_pool(pool)
    except ObjectNotFound:
        return {}
    return {each.name: each.last_heartbeat_time for each in workers if each.last_heartbeat_time}


async def _start_elsewhere(client: PrefectClient, seen: FlowRun, name: str) -> bool:
    """Whether the run was still as it was seen, that host's, and is not any more."""
    run = await client.read_flow_run(seen.id)
    if (run.state_id, worker_of(run)) != (seen.state_id, worker_of(seen)):
        return False
    crashed: State[None] = Crashed(message=f"Its host {name} is silent; another takes over.")
    await client.set_flow_run_state(run.id, crashed)
    # Whoever takes it next need not leave it to the host that had it.
    await client.update_flow_run_labels(run.id, {HOST_LABEL: ""})
    now = await client.read_flow_run(run.id)
    if await may_start_again(client, now):
        await start_again(client, now)
    else:
        await attempts_elsewhere(client, run.id)
    return True
