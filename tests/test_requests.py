"""What a run answers to, and how often its process died since, by the states that it went through.

Each word is a state: `asked` of a person, `late` and `slot` of the server, ours and the flow's.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from flows.errors import EngineSilent
from flows.outcome import unreached
from flows.runtime.history import (
    GIVEN_BACK,
    HANDED_OVER,
    RESTARTED,
    TAKEN_OVER,
    deaths,
    request_of,
)
from flows.runtime.lifecycle import Phase, RecordView
from flows.runtime.ownership import claim_id, home_of
from flows.runtime.run_states import cancelled_state, final_state, request_of_claimed
from tests.finished import finished

STATES = {
    "asked": (StateType.SCHEDULED, "Scheduled", None),
    "late": (StateType.SCHEDULED, "Late", None),
    "slot": (StateType.SCHEDULED, "AwaitingConcurrencySlot", None),
    "resumed": (StateType.SCHEDULED, "Resuming", None),
    "again": (StateType.SCHEDULED, "AwaitingRetry", RESTARTED),
    "elsewhere": (StateType.SCHEDULED, "AwaitingRetry", TAKEN_OVER),
    "back": (StateType.SCHEDULED, "Scheduled", GIVEN_BACK),
    "over": (StateType.SCHEDULED, "AwaitingRetry", HANDED_OVER),
    "pending": (StateType.PENDING, "Pending", None),
    "running": (StateType.RUNNING, "Running", None),
    "paused": (StateType.PAUSED, "Suspended", None),
    "crashed": (StateType.CRASHED, "Crashed", None),
    "failed": (StateType.FAILED, "Failed", None),
}


def states(words: str) -> list[State]:
    found = []
    for number, word in enumerate(words.split()):
        kind, name, message = STATES[word]
        found.append(State(id=UUID(int=number), type=kind, name=name, message=message))
    return found


def told(answers: int | None) -> RecordView:
    """An attempt that is told, and what it answers: the number of a state."""
    return RecordView(Phase.TOLD, answers=None if answers is None else UUID(int=answers))


@pytest.mark.parametrize(
    ("words", "record", "number"),
    [
        ("asked pending running", RecordView(), 0),
        ("asked late slot pending running", RecordView(), 2),
        ("asked late pending running again pending running", told(0), 0),
        ("asked late pending running again pending running", told(1), 1),
        ("asked pending running again slot pending running", told(0), 0),
        ("asked pending running elsewhere late pending running", told(0), 0),
        ("asked pending running over pending running", told(0), 0),
        ("asked pending running paused resumed pending running", told(0), 0),
        ("asked pending running paused asked pending running", told(0), 0),
        ("asked pending running failed asked pending running", told(0), 4),
        ("asked pending running failed asked pending running again pending", told(4), 4),
        ("asked pending running crashed asked pending running", told(0), 4),
        ("asked pending running again pending running", told(None), None),
        ("asked pending running crashed again pending running", told(None), None),
        ("asked pending running failed asked pending running", told(None), 4),
        ("asked pending running crashed asked pending running", told(None), 4),
        ("pending running", told(None), None),
    ],
)
def test_a_run_answers_to_the_newest_state_by_which_somebody_asked_for_it(
    words: str, record: RecordView, number: int | None
) -> None:
    expected = None if number is None else UUID(int=number)
    assert request_of(states(words), record) == expected


@pytest.mark.parametrize(
    ("words", "times"),
    [
        ("asked pending running", 0),
        ("asked pending running again pending running", 1),
        ("asked pending running crashed again pending running crashed", 2),
        ("asked pending running crashed again crashed pending running", 1),
        ("asked pending crashed pending crashed", 2),
        ("asked pending running elsewhere pending running again", 2),
        ("asked pending running over pending running", 0),
        ("asked pending running crashed again pending running failed asked pending running", 0),
    ],
)
def test_deaths_are_counted_since_somebody_asked_for_the_run(words: str, times: int) -> None:
    assert deaths(states(words)) == times


WAITS = ["asked", "late", "slot", "back", "over", "again", "resumed"]


@pytest.mark.parametrize("before", ["pending", "pending running", "pending running failed"])
@pytest.mark.parametrize("paused", ["", "paused"])
def test_what_is_told_by_the_state_that_was_claimed_is_what_all_states_tell(
    before: str, paused: str
) -> None:
    assert request_of_claimed(claimed("asked")) == UUID(int=0)
    for waits in product(WAITS, repeat=2):
        words = f"asked {before} {paused} {' '.join(waits)}"
        told_at_once = request_of_claimed(claimed(words))
        # Of one that never ran, a person's own state alone cannot tell: see below.
        if words.endswith("asked") and "running" not in words:
            continue
        assert told_at_once in (None, request_of(states(words))), words


def claimed(words: str) -> FlowRun:
    """A run that is claimed in the last of these states."""
    past = states(words)
    times = sum(state.is_running() for state in past)
    return FlowRun(flow_id=UUID(int=99), state=past[-1], run_count=times)


@pytest.mark.parametrize("waits", ["late", "slot", "asked", "late asked"])
def test_an_attempt_made_for_a_run_that_was_given_back_answers_it_at_every_later_look(
    waits: str,
) -> None:
    words = f"asked pending back {waits}"
    made_for = request_of_claimed(claimed(words)) or request_of(states(words))
    assert made_for is not None
    record = RecordView(Phase.BEGAN, answers=made_for)
    for later in ("", "over pending running", "late over pending", "paused asked pending"):
        past = states(f"{words} pending running {later}")
        assert request_of(past, record) == made_for, later


@pytest.mark.parametrize("is_unreached", [True, False])
@pytest.mark.parametrize("told_by", ["end", "cancellation"])
def test_a_run_that_ended_while_its_container_may_run_is_retried_on_its_own_host(
    tmp_path: Path, is_unreached: bool, told_by: str
) -> None:
    attempt = finished(tmp_path)
    assert attempt.executed is not None
    outcome = unreached(EngineSilent("no answer"))
    if not is_unreached:
        outcome = replace(outcome, unreached=False)
    attempt = replace(attempt, executed=replace(attempt.executed, outcome=outcome))
    end = final_state(outcome, attempt) if told_by == "end" else cancelled_state(attempt)
    end.state_details.transition_id = claim_id(UUID(int=99))
    past = [*states("asked pending running"), end, *states("asked")]
    assert home_of(past, "host-1", UUID(int=99)) == ("host-1" if is_unreached else None)
