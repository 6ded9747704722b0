"""What becomes of a run's container, and of its state, when its process is told to stop."""

from collections.abc import Awaitable
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort
from prefect.states import AwaitingRetry

from flows.attempt import Attempt
from flows.runtime import steps
from flows.runtime.cancellation import Reason
from flows.runtime.context import Job
from flows.runtime.history import HANDED_OVER
from flows.runtime.last_word import last_word_if_told
from flows.runtime.run_states import cancelled_state
from flows.runtime.suspension import pause

# Why a run's process sets no state.
NO_STATE = {
    Reason.SETTLED: "somebody set its final state, which stands",
    Reason.DELETED: "somebody deleted it",
    Reason.SUSPEND: "somebody suspended it",
    Reason.TAKEN: "it is another's now",
}

# For the server's answer, of the 20 s in which a worker that stops hands its runs over.
_HAND_OVER_SECONDS = 5.0


async def state_to_set(
    job: Job, run_id: UUID, reason: Reason | None, state: State[Any] | None
) -> State[Any]:
    """The state that a run's process sets at its end: `state`, which it came to by itself, unless
    it was told to stop for a `reason`, or somebody said so at the server, of which a hand-over
    hears here alone. Raises `Abort` where it sets none."""
    async with get_client() as client:
        if reason in (None, Reason.HAND_OVER):
            seconds = _HAND_OVER_SECONDS if reason else None
            said = await last_word_if_told(client, run_id, job.logger, seconds)
            if said is None and state is not None:
                return state
            reason = said or reason
        reason = reason or Reason.CANCEL
        stopped = await stop(job, reason, client)
    if stopped is None:
        raise Abort(NO_STATE[reason])
    return stopped


async def stop(
    job: Job, reason: Reason, client: PrefectClient, before: Attempt | None = None
) -> State[Any] | None:
    """Do with the newest attempt, which nobody works on any more, what `reason` says.

    Returns the state to set; None where what the server has stands. One that is as it was `before`
    has nothing to do with it. Raises nothing: what cannot be done now is the sweep's.
    """
    if reason is Reason.HAND_OVER:
        return AwaitingRetry(message=HANDED_OVER)
    await _as_far_as_possible(job, _done(job, reason, client))
    if reason is not Reason.CANCEL:
        return None
    newest = job.store.last()
    return cancelled_state(newest if newest != before else None)


async def _as_far_as_possible(job: Job, step: Awaitable[None]) -> None:
    try:
        await step
    except Exception as error:  # noqa: BLE001 - what was said stands, whatever fails
        job.logger.warning("What is left of the run is for the sweep: %s", error)


async def _done(job: Job, reason: Reason, client: PrefectClient) -> None:
    if reason in (Reason.CANCEL, Reason.SETTLED):
        await steps.cancel(job, client)
        return
    with job.store.held():
        attempt = job.store.last()
        if attempt is None or attempt.published:
            return
        if reason is Reason.SUSPEND:
            await pause(job, attempt)
        elif reason is Reason.TAKEN:
            await steps.let_go(job, attempt)
        else:
            await _end_unseen(job, attempt, client)


async def _end_unseen(job: Job, attempt: Attempt, client: PrefectClient) -> None:
    """End an attempt, and tell of it by events alone: there is no run to show anything of."""
    if attempt.executed is None:
        await steps.end_canceled(job, attempt)
    await steps.tell_unseen(job, client)
