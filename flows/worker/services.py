"""What a worker does beside its claim loop: SIGTERM, its pool's events, the sweep, the tidying, and
the restart of runs whose host sends no heartbeats any more.

Each host looks after its own runs, which only it can adopt; the worker that labelled a run is the
one whose heartbeats count.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed
from tenacity import AsyncRetrying, before_sleep_log, wait_exponential

from flows.runtime.recovery import attempts_elsewhere, may_start_again, start_again
from flows.worker.cleanup import tidy
from flows.worker.run_notes import HOST_LABEL, host_of, read_runs, worker_of
from flows.worker.sweep import SweptHost, sweep
from flows.workspace.logs import Logger

_CANCELLING = "prefect.flow-run.Cancelling"
_WORK = ["prefect.flow-run.Scheduled", "prefect.flow-run.AwaitingRetry", "prefect.work-pool.ready"]
# Of longer gaps between two looks, nobody knows who was silent in them: the server may have been.
_GAP_SECONDS = 150.0


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


async def sweep_every_minute(host: SweptHost, pool: str, worker: str) -> None:
    """Sweep this host, at once and then each minute; the scheduled sweep looks after any one."""
    silence, name = Silence(host.settings.patience_seconds), host.settings.worker

    async def sweep_and_take_over() -> None:
        await sweep(host)
        async for sentence in take_over(host.client, pool, name, worker, silence):
            host.logger.info(sentence)

    await _every_minute("sweep", sweep_and_take_over, host.logger)


async def tidy_every_minute(host: SweptHost) -> None:
    """Finish uploads, and remove what has been kept long enough."""
    await _every_minute("tidy up", partial(tidy, host), host.logger)


async def _every_minute(doing: str, look: Callable[[], Awaitable[object]], logger: Logger) -> None:
    while True:
        try:
            await look()
        except Exception as error:  # noqa: BLE001 - the next one comes within a minute
            logger.warning("Could not %s: %s", doing, error)
        await asyncio.sleep(60.0)


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
