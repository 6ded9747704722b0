"""Whose a run is: pure functions that alone decide on claims and on take-overs.

A run that waits is claimed by the state Pending. Prefect's server compares little: it lets Pending
follow a final state. So a claim has a transition id that the final state of a run repeats.
"""

from collections.abc import Sequence
from itertools import dropwhile, takewhile
from uuid import UUID, uuid5

from prefect.client.schemas.objects import State

from flows.runtime.lifecycle import TAKEN_OVER


def claim_id(run_id: UUID) -> UUID:
    """Transition id of a claim, and of the final state after which nothing of a run is left.

    The server refuses a state with the id of the one that it would replace: so a claim that comes
    after the run's end is refused, until somebody asks for the run once more.
    """
    return uuid5(run_id, "claim")


def home_of(states: Sequence[State], label: str | None, run_id: UUID) -> str | None:
    """The host on which something of a run that waits may still be; None for none.

    It is the one that its `label` names, unless the run was taken over from it, or ended there, or
    never began.
    """
    waiting = list(takewhile(_waits, reversed(states)))
    if any(state.message == TAKEN_OVER for state in waiting):
        return None
    before = next(dropwhile(_waits, reversed(states)), None)
    if before is None or before.state_details.transition_id == claim_id(run_id):
        return None
    return label


def _waits(state: State) -> bool:
    """Whether it is of a run that nothing runs of: one that was claimed may not have begun."""
    return state.is_scheduled() or state.is_pending()
