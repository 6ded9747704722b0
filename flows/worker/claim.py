"""One claim: the state Pending as a compare-and-set at the server, and giving a run back."""

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound
from prefect.states import Pending, Scheduled

from flows.runtime.api_client import is_refused_as_claim, propose
from flows.runtime.history import GIVEN_BACK
from flows.runtime.ownership import claim_id


async def claim(client: PrefectClient, run: FlowRun, message: str) -> str | None:
    """Propose the state Pending, with a `message` that no other worker's claims have; None where
    the run is ours then, else why it is not.

    Any other error than a refusal leaves open whether the server has taken the claim.
    """
    try:
        pending: State[None] = Pending(message=message)
        result = await propose(client, run.id, pending, claim_id(run.id))
    except ObjectNotFound:
        return "it was deleted"
    # The client asks again where an answer was lost.
    held = result.state if is_refused_as_claim(result) else None
    is_our_own = held is not None and held.message == message
    if is_our_own or result.status is SetStateStatus.ACCEPT:
        return None
    return str(getattr(result.details, "reason", None) or result.status.value)


async def give_back(client: PrefectClient, run: FlowRun, message: str) -> bool:
    """Put a run that was claimed with `message` and has not begun back into its queue, in its old
    place; whether it was so."""
    try:
        state = (await client.read_flow_run(run.id)).state
        if state is None or not state.is_pending() or state.message != message:
            return False
        waiting: State[None] = Scheduled(
            scheduled_time=state.state_details.scheduled_time, message=GIVEN_BACK
        )
        await client.set_flow_run_state(run.id, waiting)
    except ObjectNotFound:
        return False
    return True
