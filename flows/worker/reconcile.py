"""Reconcile runs that a worker carries with what the server says of them, read by their ids.

Each poll reads the state and labels of all of them; events only hasten that. So what a person says
of a run (cancel, suspend, delete, mark as failed, completed or cancelled) reaches its container
also where an event was lost. A request that fails changes nothing.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, StateType

from flows.errors import PayloadError
from flows.payload.parse import parse
from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.lifecycle import Claim, RunView, why_stop
from flows.runtime.run_states import fence_of, host_of
from flows.units import NOTHING, Resources, memory_bytes
from flows.worker.run_notes import read_runs
from flows.workspace.logs import Logger

# The most that the server gives at a time.
_PAGE = 200
# Events of many runs that come at once are looked into together; a run whose own end one tells is
# mostly over by then.
_GATHER_SECONDS = 0.2


@dataclass(eq=False, slots=True)
class Carried:
    """A run that this process carries, since its claim was confirmed: how it is stopped, the fence
    that it was claimed under, and whether its label has named this host since then."""

    cancellation: Cancellation
    fence: int = 0
    is_labelled: bool = False


# Does with a suspended run, which nobody carries, what has been said of it; returns at once.
StopSuspended = Callable[[FlowRun, Reason], object]


class Reconciler:
    """Knows the runs that a worker carries, and those that are suspended on its host."""

    def __init__(
        self,
        host: str,
        client: Callable[[], PrefectClient],
        stop_suspended: StopSuspended,
        logger: Logger,
    ) -> None:
        self._host = host
        self._client = client
        self._stop_suspended = stop_suspended
        self._logger = logger
        self._carried: dict[UUID, Carried] = {}
        self._suspended: dict[UUID, FlowRun] = {}
        self._mentioned: set[UUID] = set()
        self._woken = asyncio.Event()

    @contextmanager
    def carrying(self, run: FlowRun, cancellation: Cancellation) -> Iterator[Carried]:
        """For the block, a run whose claim is confirmed; suspended by its end, it stays known."""
        self._suspended.pop(run.id, None)
        carried = self._carried[run.id] = Carried(cancellation, fence_of(run))
        try:
            yield carried
        finally:
            del self._carried[run.id]
            if cancellation.reason is Reason.SUSPEND:
                self._suspended[run.id] = run

    @property
    def set_aside(self) -> Resources:
        """What suspended runs go on to take: a paused container computes nothing, and keeps its
        memory."""
        return sum(map(_memory_of, self._suspended.values()), NOTHING)

    def mention(self, run_id: UUID) -> None:
        """Have a run looked at soon, if it is one of these: an event tells of it."""
        if run_id in self._carried or run_id in self._suspended:
            self._mentioned.add(run_id)
            self._woken.set()

    async def look_when_told(self) -> None:
        """Look at runs as events mention them, until cancelled."""
        await self._tried(self._find_suspended())
        while True:
            await self._woken.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            self._woken.clear()
            mentioned, self._mentioned = self._mentioned, set()
            await self._tried(self.look(mentioned))

    async def look(self, only: Collection[UUID] | None = None) -> None:
        """Ask for all runs, or for these, and stop those that are not to go on."""
        # Before the question: what is claimed while it is answered is not meant.
        carried, suspended = dict(self._carried), dict(self._suspended)
        ids = [each for each in (*carried, *suspended) if only is None or each in only]
        found = await _read(self._client(), ids)
        for run_id in ids:
            if run_id in carried:
                self._judge(carried[run_id], found.get(run_id))
            elif self._suspended.get(run_id) is suspended[run_id]:
                self._judge_suspended(suspended[run_id], found.get(run_id))

    def _judge(self, carried: Carried, run: FlowRun | None) -> None:
        reason = why_stop(_view(run, carried), Claim(self._host, carried.fence))
        if reason is not None:
            carried.cancellation.request(reason)

    def _judge_suspended(self, known: FlowRun, run: FlowRun | None) -> None:
        reason = why_stop(_view(run), Claim(self._host, fence_of(known)))
        if reason is Reason.SUSPEND:
            return
        del self._suspended[known.id]
        is_resumed = run is not None and run.state is not None and run.state.is_scheduled()
        if reason is not None and not is_resumed:
            self._stop_suspended(known, reason)

    async def _find_suspended(self) -> None:
        """Those of this host whose worker was another process."""
        for run in await read_runs(self._client(), StateType.PAUSED):
            if host_of(run) == self._host and run.id not in self._carried:
                self._suspended[run.id] = run

    async def _tried(self, step: Coroutine[Any, Any, None]) -> None:
        try:
            await step
        except Exception as error:  # noqa: BLE001 - the next poll looks again
            self._logger.warning("Could not ask what became of runs: %s", error)


def _view(run: FlowRun | None, carried: Carried | None = None) -> RunView | None:
    if run is None or run.state is None:
        return None
    # Until it is written anew, its label names the host that had the run before.
    is_labelled = carried is None or carried.is_labelled
    return RunView(run.state.type, host_of(run) if is_labelled else None, fence_of(run))


def _memory_of(run: FlowRun) -> Resources:
    try:
        limit = parse(run.parameters.get("payload")).task.container.resources.memory
    except PayloadError:
        return NOTHING
    return Resources(memory_bytes=memory_bytes(limit) if limit else 0)


async def _read(client: PrefectClient, ids: Iterable[UUID]) -> Mapping[UUID, FlowRun]:
    found: dict[UUID, FlowRun] = {}
    rest = iter(ids)
    while page := list(islice(rest, _PAGE)):
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=page))
        runs = await client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE)
        found |= {run.id: run for run in runs}
    return found
