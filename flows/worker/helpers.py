"""Ends runs of the package's other flows, `reap-orphans` and `failure-summary`, whose process died.

They have nothing on disk and are not started again: the next one comes by its schedule.
"""

from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any

from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed

from flows.worker.owners import Owners, owners
from flows.worker.sweep import SweptHost

HELPERS = ("reap-orphans", "failure-summary")
_BEGUN = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
# Far longer than any takes; whose process it was, some pools do not tell.
_LONGEST = timedelta(days=1)


async def sweep_helpers(host: SweptHost) -> AsyncIterator[str]:
    """Tell runs that have begun and that nobody has as crashed, or cancelled where somebody asked
    for that; a sentence each."""
    client, settings = host.client, host.settings
    begun = await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=list(HELPERS))),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_BEGUN)))
        ),
    )
    theirs = [run for run in begun if not host.is_running(str(run.id))]
    if not theirs:
        return
    pools = {run.work_pool_name for run in theirs if run.work_pool_name}
    names = settings.worker, host.worker
    found = await owners(client, settings.workdir, names, pools, host.ahead)
    for run in _lost(theirs, found):
        if not host.dry_run:
            await client.set_flow_run_state(run.id, _end_of(run))
        yield f"{run.id}: the process of {run.name} died"


def _lost(runs: Iterable[FlowRun], found: Owners) -> list[FlowRun]:
    return [
        run
        for run in runs
        if found.have_lost(run, is_known=False)
        or (run.state is not None and found.now - run.state.timestamp > _LONGEST)
    ]


def _end_of(run: FlowRun) -> State[Any]:
    if run.state is not None and run.state.is_cancelling():
        return Cancelled(message="canceled; its process had died")
    return Crashed(message="Its process died; the next one comes by its schedule.")
