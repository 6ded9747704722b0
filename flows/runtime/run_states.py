"""Flow runs as the server has them, for `lifecycle`; and the states that this package sets."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Crashed, Failed, Scheduled

from flows.attempt import Attempt, Upload
from flows.errors import PayloadError
from flows.outcome import (
    LEFT,
    UNHEARD,
    FailureClass,
    Outcome,
    OutcomeName,
    StoppedBy,
    ended_early,
)
from flows.payload.container import Retry
from flows.payload.parse import parse
from flows.report.names import state_message, state_name
from flows.runtime.history import (
    RESTARTED,
    TAKEN_OVER,
    deaths,
    is_request,
    replaced,
    request_of,
)
from flows.runtime.lifecycle import RecordView, RunView
from flows.workspace.logs import LogFacts

# Labels of a flow run: the host that runs it, or did last; how often another host took it over.
HOST_LABEL = "moonmind.host"
FENCE_LABEL = "moonmind.fence"
# The worker that runs it, or did last; the one that took it over from another host last.
WORKER_LABEL = "prefect.worker.name"
TAKER_LABEL = "moonmind.taken_by"
_CLAIM = re.compile(r"Claimed by (?P<worker>.+) on (?P<host>.+)")


async def read_run(client: PrefectClient, job_id: str) -> FlowRun | None:
    """The job's flow run; None where this server has none."""
    try:
        return await client.read_flow_run(UUID(job_id))
    except (ObjectNotFound, ValueError):
        return None


async def history_of(client: PrefectClient, run_id: UUID) -> list[State]:
    """All states of a run, oldest first."""
    states = await client.read_flow_run_states(run_id)
    return sorted(states, key=lambda state: state.timestamp)


def claim_message(worker: str, host: str) -> str:
    """What the state Pending says of who claimed a run: see `worker_of` and `host_of`."""
    return f"Claimed by {worker} on {host}"


def host_of(run: FlowRun) -> str | None:
    """The host that runs it, or did last; None where no host does."""
    return _claimed_by(run, "host") or str((run.labels or {}).get(HOST_LABEL) or "") or None


def worker_of(run: FlowRun) -> str:
    """The worker that runs it, or did last; empty where none does."""
    return _claimed_by(run, "worker") or str((run.labels or {}).get(WORKER_LABEL) or "")


def _claimed_by(run: FlowRun, who: str) -> str | None:
    """By the claim itself: the labels of a run that is Pending may be those of the time before."""
    if run.state is None or not run.state.is_pending():
        return None
    claim = _CLAIM.fullmatch(run.state.message or "")
    return claim[who] if claim else None


def fence_of(run: FlowRun) -> int:
    """How often another host took it over."""
    return int((run.labels or {}).get(FENCE_LABEL) or 0)


def request_of_claimed(run: FlowRun) -> UUID | None:
    """What a run that never ran answers to, by the state that a worker claimed it in; None where
    that is not enough to tell: what came before it is, see `history.request_of`."""
    if run.state is None or run.run_count or not is_request(run.state):
        return None
    return run.state.id


def view_of(
    run: FlowRun, states: Sequence[State], record: RecordView, *, is_lost: bool = False
) -> RunView | None:
    """The run for `lifecycle`, None for one without a state. `states` are all of it where its
    process died, and may be none elsewhere."""
    if run.state is None:
        return None
    # A crash that is told is one of those that are counted; one that is not yet, is not.
    used = deaths(states) - run.state.is_crashed()
    return RunView(
        type=run.state.type,
        host=host_of(run),
        fence=fence_of(run),
        request=request_of(states, record),
        has_starts_left=run.deployment_id is not None
        and used < starts_allowed(run.parameters.get("payload")),
        is_lost=is_lost,
        replaced=replaced(states),
    )


def starts_allowed(payload: object) -> int:
    """How often the run of this payload is started again after its process died."""
    try:
        return parse(payload).task.container.retry.infrastructure
    except PayloadError:
        return Retry().infrastructure


def final_state(outcome: Outcome, attempt: Attempt | None = None) -> State[Any]:
    """The flow run's final state, as its newest attempt ended."""
    log = attempt.executed.log if attempt and attempt.executed else None
    message = _message(outcome, log, attempt.upload if attempt else None)
    if outcome.name is OutcomeName.SUCCEEDED:
        return Completed(message=message)
    if outcome.name is OutcomeName.CANCELED:
        return Cancelled(message=message)
    if outcome.failure_class is FailureClass.WORKER:
        return Crashed(message=message)
    return Failed(name=state_name(outcome), message=message)


def cancelled_state(attempt: Attempt | None) -> State[Any]:
    """Of a run that somebody canceled, whatever its newest attempt came to."""
    if attempt and attempt.began and not (attempt.executed or attempt.taken):
        return Cancelled(message=UNHEARD)
    if attempt is None or attempt.executed is None or attempt.taken:
        return Cancelled(message=ended_early(StoppedBy.CANCEL).error)
    return Cancelled(message=_message(attempt.outcome))


def _message(outcome: Outcome, log: LogFacts | None = None, upload: Upload | None = None) -> str:
    """What a final state says; of a container that may run on, `ownership.home_of` reads it."""
    message = state_message(outcome, log, upload)
    return f"{message}. {LEFT}" if outcome.unreached else message


def restarted_state() -> State[Any]:
    """Puts a run whose process died back into its queue, under the same id."""
    return _awaiting(RESTARTED)


def taken_over_state() -> State[Any]:
    """The same, by another host than the one that had the run."""
    return _awaiting(TAKEN_OVER)


def _awaiting(message: str) -> State[Any]:
    return Scheduled(scheduled_time=datetime.now(UTC), name="AwaitingRetry", message=message)
