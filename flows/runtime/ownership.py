"""Whose a run is: pure functions that alone decide on claims and on take-overs.

A run that waits is claimed by the state Pending. Prefect's server compares little: it lets Pending
follow a final state, and Running any. So a claim has a transition id that the final state of a run
repeats, and Running one that is always the same; and whoever claimed looks at what he replaced.
"""

from collections.abc import Sequence
from enum import Enum, auto
from itertools import dropwhile, takewhile
from uuid import UUID, uuid5

from prefect.client.schemas.objects import State, StateType

from flows.outcome import LEFT, UNHEARD
from flows.runtime.history import TAKEN_OVER
from flows.runtime.lifecycle import RunView


class TakeOver(Enum):
    """What becomes of a run whose host is silent."""

    LEAVE = auto()
    START_ELSEWHERE = auto()
    SET_CANCELLED = auto()
    SET_CRASHED = auto()
    SET_AGAIN = auto()


def claim_id(run_id: UUID) -> UUID:
    """Transition id of a claim, and of the final state after which nothing of a run is left.

    The server refuses a state with the id of the one that it would replace: so a claim that comes
    after the run's end is refused, until somebody asks for the run once more.
    """
    return uuid5(run_id, "claim")


def running_id(run_id: UUID) -> UUID:
    """Transition id of Running: of two that claimed one after the other, one alone begins."""
    return uuid5(run_id, "running")


def take_over_id(run_id: UUID, fence: int) -> UUID:
    """Transition id of the state that a take-over sets: of two that raised the fence to the same
    number, the server takes one."""
    return uuid5(run_id, f"take-over {fence}")


def home_of(states: Sequence[State], label: str | None, run_id: UUID) -> str | None:
    """The host on which something of a run that waits may still be; None for none.

    It is the one that its `label` names, unless the run was taken over from it, or never began, or
    ended there with its container's end.
    """
    waiting = list(takewhile(_waits, reversed(states)))
    if any(state.message == TAKEN_OVER for state in waiting):
        return None
    before = next(dropwhile(_waits, reversed(states)), None)
    if before is None:
        return None
    has_ended = before.state_details.transition_id == claim_id(run_id)
    is_left = (before.message or "").endswith((UNHEARD, LEFT))
    return None if has_ended and not is_left else label


def _waits(state: State) -> bool:
    """Whether it is of a run that nothing runs of: one that was claimed may not have begun."""
    return state.is_scheduled() or state.is_pending()


def is_claimable(states: Sequence[State], label: str | None, run_id: UUID, host: str) -> bool:
    """Whether `host` may claim a run with these states, oldest first, of which the newest is what
    the claim replaces."""
    if not states or not states[-1].is_scheduled():
        return False
    return home_of(states, label, run_id) in (None, host)


def take_over(run: RunView) -> TakeOver:
    """What another host does with a run whose host is silent, once it has raised the fence and
    found that the host is silent still."""
    match run.type:
        case StateType.CANCELLING:
            return TakeOver.SET_CANCELLED
        case StateType.SCHEDULED:
            return TakeOver.START_ELSEWHERE
        case StateType.PENDING | StateType.RUNNING:
            if run.replaced is not None:
                return TakeOver.SET_AGAIN
            is_last = not run.has_starts_left
            return TakeOver.SET_CRASHED if is_last else TakeOver.START_ELSEWHERE
        case _:
            return TakeOver.LEAVE
