"""Reconcile runs that a worker carries with what the server says of them, read by their ids.

Each poll reads the state and labels of all of them; events only hasten that. So what a person says
of a run (cancel, suspend, delete, mark as failed, completed or cancelled) reaches its container
also where an event was lost. A request that fails changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun

from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.lifecycle import Claim, RunView, why_stop
from flows.runtime.run_states import fence_of, host_of
from flows.units import NOTHING, Resources
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


@dataclass(frozen=True, slots=True)
class Suspended:
    """A run whose container this host has paused, and what that goes on to take of its room."""

    run: FlowRun
    takes: Resources = NOTHING


# Does what is to be done with a suspended run that nobody carries.
StopSuspended = Callable[[FlowRun, Reason], Awaitable[None]]


@dataclass(eq=False)
class Reconciler:
    """Knows the runs that this worker carries, and those that are suspended on its host."""

    client: PrefectClient
    host: str
    stop_suspended: StopSuspended
    logger: Logger
    carried: dict[UUID, Carried] = field(default_factory=dict)
    suspended: dict[UUID, Suspended] = field(default_factory=dict)
    _mentioned: set[UUID] = field(default_factory=set)
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def mention(self, run_id: UUID) -> None:
        """Have the run looked at soon, if it is one of these: an event tells of it."""
        if run_id in self.carried or run_id in self.suspended:
            self._mentioned.add(run_id)
            self._woken.set()

    async def look_when_told(self) -> None:
        """Look at runs as events mention them, until cancelled."""
        while True:
            await self._woken.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            self._woken.clear()
            mentioned, self._mentioned = self._mentioned, set()
            try:
                await self.look(mentioned)
            except Exception as error:  # noqa: BLE001 - the next poll looks again
                self.logger.warning("Could not ask what became of runs: %s", error)

    async def look(self, only: Collection[UUID] | None = None) -> None:
        """Ask for all runs, or for these, and stop those that are not to go on."""
        # Before the question: what is claimed while it is answered is not meant.
        carried, suspended = dict(self.carried), dict(self.suspended)
        ids = [each for each in (*carried, *suspended) if only is None or each in only]
        found = await _read(self.client, ids)
        for run_id in ids:
            run = found.get(run_id)
            if run_id in carried:
                self._judge(carried[run_id], run)
            elif self.suspended.get(run_id) is suspended[run_id]:
                await self._judge_suspended(suspended[run_id], run)

    def _judge(self, carried: Carried, run: FlowRun | None) -> None:
        reason = why_stop(_view(run, carried), Claim(self.host, carried.fence))
        if reason is not None:
            carried.cancellation.request(reason)

    async def _judge_suspended(self, suspended: Suspended, run: FlowRun | None) -> None:
        known = suspended.run
        reason = why_stop(_view(run), Claim(self.host, fence_of(known)))
        if reason is Reason.SUSPEND:
            return
        del self.suspended[known.id]
        is_resumed = run is not None and run.state is not None and run.state.is_scheduled()
        if reason is not None and not is_resumed:
            await self.stop_suspended(known, reason)


def _view(run: FlowRun | None, carried: Carried | None = None) -> RunView | None:
    if run is None or run.state is None:
        return None
    # Until its label is written, it names the host that had the run before.
    is_labelled = carried is None or carried.is_labelled
    return RunView(run.state.type, host_of(run) if is_labelled else None, fence_of(run))


async def _read(client: PrefectClient, ids: Iterable[UUID]) -> Mapping[UUID, FlowRun]:
    found: dict[UUID, FlowRun] = {}
    for page in _paged(ids):
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=page))
        runs = await client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE)
        found |= {run.id: run for run in runs}
    return found


def _paged(ids: Iterable[UUID]) -> Iterator[list[UUID]]:
    rest = iter(ids)
    while page := list(islice(rest, _PAGE)):
        yield page
