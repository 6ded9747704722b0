"""What the states of a flow run say, oldest first: who asked for it, how often its process died.

Pure functions. Prefect's server compares little when it takes a state, so what a state of ours
came after is looked at afterwards.
"""

from collections.abc import Sequence
from itertools import groupby
from uuid import UUID

from prefect.client.schemas.objects import State

from flows.runtime.lifecycle import Phase, RecordView

# The messages of states that put a run back into its queue to go on with what somebody asked for.
RESTARTED = "Its process died; another takes over."
HANDED_OVER = "Its worker stopped; the next one takes over."
TAKEN_OVER = "Its host is silent; another takes over."
GIVEN_BACK = "Its worker stopped before it began; it waits for the next one."
_GOING_ON = {RESTARTED, HANDED_OVER, TAKEN_OVER, GIVEN_BACK}
_DEATHS = {RESTARTED, TAKEN_OVER}
# Names of scheduled states in which the server itself puts off what somebody asked for.
_PUT_OFF = {"Late", "AwaitingConcurrencySlot"}
_NO_RECORD = RecordView()


def is_request(state: State, *, is_first: bool = False) -> bool:
    """Whether a state, by itself, asks for the run rather than to go on with it, or puts it off.

    `is_first`, that the run never ran: what the server puts off was asked for then.
    """
    if not state.is_scheduled() or state.message in _GOING_ON or state.name == "Resuming":
        return False
    return is_first or state.name not in _PUT_OFF


def since_request(states: Sequence[State]) -> tuple[Sequence[State], Sequence[State]]:
    """The scheduled states, of these oldest first, by which somebody last asked for the run, one
    after the other; and those that came after them."""
    stretches = [list(each) for _, each in groupby(states, State.is_scheduled)]
    for index, stretch in reversed(list(enumerate(stretches))):
        resumes = index > 0 and stretches[index - 1][-1].is_paused()
        if is_request(stretch[0], is_first=index == 0) and not resumes:
            return stretch, [state for later in stretches[index + 1 :] for state in later]
    return [], states


def request_of(states: Sequence[State], record: RecordView = _NO_RECORD) -> UUID | None:
    """The id of the state, of these oldest first, by which somebody last asked for the run.

    A stretch of scheduled states is one request, and those that only go on with it are no other:
    where the record answers to one of these, to that. One that nobody knows the request of answers
    to the newest of the stretch, unless the run has ended before it.
    """
    asked, after = since_request(states)
    if not asked:
        return None
    if record.answers is None and record.phase is not Phase.NONE:
        before = states[: list(states).index(asked[0])]
        if not any(map(State.is_final, before)):
            return None
    ids = {state.id for state in (*asked, *after)}
    return record.answers if record.answers in ids else asked[-1].id


def deaths(states: Sequence[State]) -> int:
    """How often the process of the newest request died, of all states of a run, oldest first.

    Each is told by a state of ours, or by Prefect as a crash before it, perhaps twice.
    """
    _, after = since_request(states)
    told = [State.is_crashed(state) or state.message in _DEATHS for state in after]
    return sum(is_told for is_told, _ in groupby(told))


def replaced(states: Sequence[State]) -> State | None:
    """What our newest state came after though it was not meant to, and is to be set again.

    The server lets Pending follow a final state, and Running any that somebody set after the claim.
    """
    past = list(states)
    while len(past) > 1 and past[-1].is_running():
        past.pop()
    if not past or past[-1].is_running() or past[-1].is_cancelling():
        return None
    if past[-1].is_pending():
        before = past[-2] if len(past) > 1 else None
        return before if before is not None and before.is_final() else None
    return past[-1] if len(past) < len(states) else None
