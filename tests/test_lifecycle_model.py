"""The decisions on a run's life, played against crashes, cuts and people on a model of two hosts.

The model is `tests.lifecycle_model`: it makes effects, and asks `flows.runtime` what to do. What
the version before decided is played too, and must be found guilty: else the model sees nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.schemas.objects import State

from flows.runtime.cancellation import Reason
from flows.runtime.lifecycle import Begin, Claim, RecordView, RunView
from tests.lifecycle_model.before import Before
from tests.lifecycle_model.decisions import Decisions
from tests.lifecycle_model.histories import CHUNKS, HOSTS, patience, whole
from tests.lifecycle_model.judge import Broken
from tests.lifecycle_model.walks import broken, settled
from tests.strategies import bounded

A_RUNS = whole("a", "poll", "claim", "carry")
A_ENDS = ["a exits", *whole("a", "carry")]
B_RUNS = whole("b", "poll", "claim", "carry")
TWO_RUN = "two containers run, on a and b"

# What the version before did wrong: a history, and what it comes to.
WRONGS_OF_BEFORE = {
    "a claim from memory runs what another host has completed": (
        [*["b claim"] * 3, *A_RUNS, *A_ENDS, *whole("b", "claim", "carry")],
        "I1: it runs once more after Completed",
    ),
    "an engine's silence is an outcome, and another attempt starts beside the first": (
        [*A_RUNS, "a cut from engine", *whole("a", "carry"), "a engine back", *whole("a", "carry")],
        "I1: two containers run, on a and a",
    ),
    "a cancel is not heard after the container's end, and another attempt starts": (
        [*A_RUNS, "a engine restarts", "a carry", "cancel", *whole("a", "poll", "carry", "carry")],
        "I4: another container is started after its end was ordered",
    ),
    "a run that was retried and dies before its state runs a third time": (
        [*A_RUNS, *A_ENDS, "retry", *A_RUNS, "a exits", *["a carry"] * 5, "a worker killed"],
        "I1: what had ended is run once more, and nobody asked for it",
    ),
    "a host that was cut off runs on beside the one that took over": (
        [*A_RUNS, "a cut from server", *patience("b"), *B_RUNS],
        TWO_RUN,
    ),
    "a host that comes back completes what another host runs": (
        [
            *A_RUNS,
            "a cut from server",
            *patience("b"),
            "a exits",
            *B_RUNS,
            "a server back",
            *whole("a", "carry"),
        ],
        "I2: Completed is set while a container runs",
    ),
}


class Fenceless(Decisions):
    """A host that comes back does not see that another has begun to take over."""

    def why_stop(self, run: RunView | None, claim: Claim) -> Reason | None:
        return super().why_stop(run, replace(claim, fence=run.fence) if run else claim)


class Homeless(Decisions):
    """A run that waits may be claimed by any host."""

    def is_claimable(self, states: Sequence[State], label: str | None, host: str) -> bool:
        return states[-1].is_scheduled()


class Adopting(Decisions):
    """Whatever an earlier request left is gone on with."""

    def begin(self, record: RecordView, states: Sequence[State], fence: int) -> Begin:
        first = super().begin(record, states, fence)
        return Begin.GO_ON if first is Begin.CLOSE else first


class Forgetful(Decisions):
    """An end that was told is not set again as the state."""

    def begin(self, record: RecordView, states: Sequence[State], fence: int) -> Begin:
        first = super().begin(record, states, fence)
        return Begin.PREPARE if first is Begin.TELL_END else first


def without(safeguard: str) -> type[Decisions]:
    """The decisions of today, but for one."""
    return type("Weakened", (Decisions,), {safeguard: False})


# b has seen a's last heartbeat for the whole patience, and is about to take over.
B_WAITS = [move for _ in range(9) for move in ["tick", *whole("b", "poll")]]
A_IS_SILENT = ["a cut from server", *["b take over"] * 2, *B_WAITS]
A_IS_BACK = ["a server back", *whole("a", "poll", "carry")]
B_GOES_ON = [*whole("b", "take over"), *B_RUNS]

# Decisions that lack a safeguard, a history, and what it comes to.
SAFEGUARDS = {
    "the lease": (
        without("has_lease"),
        [*A_RUNS, *A_IS_SILENT, *B_GOES_ON],
        TWO_RUN,
    ),
    "the second look before a take-over": (
        without("looks_twice"),
        [*A_RUNS, *A_IS_SILENT, *["b take over"] * 2, *A_IS_BACK, *B_GOES_ON],
        TWO_RUN,
    ),
    "the fence": (
        Fenceless,
        [*A_RUNS, *A_IS_SILENT, *["b take over"] * 4, *A_IS_BACK, *B_GOES_ON],
        TWO_RUN,
    ),
    "the home of a run that waits": (
        Homeless,
        [*A_RUNS, "a worker told to end", *whole("a", "carry"), *B_RUNS],
        TWO_RUN,
    ),
    "the look at what a claim replaced": (
        without("looks_back"),
        [*whole("b", "poll"), *["b claim"] * 2, "mark completed", *whole("b", "claim", "carry")],
        "I4: it runs although a person said Completed",
    ),
    "what a Cancelled run may have left": (
        without("tells_what_is_left"),
        [
            *[*A_RUNS, "a cut from engine", "cancel", *whole("a", "poll", "carry")],
            *["retry", *B_RUNS],
        ],
        TWO_RUN,
    ),
    "the hearing after the container's end": (
        without("hears_after_end"),
        [*A_RUNS, "a engine restarts", "a carry", "mark failed", *whole("a", "poll", "carry")],
        "I4: another container is started after its end was ordered",
    ),
    "what an attempt answers to": (
        Adopting,
        [*A_RUNS, "mark failed", "a worker told to end", "a carry", "retry"],
        "I2: Completed is said of what did not succeed",
    ),
    "the end that was told": (
        Forgetful,
        [
            *[*A_RUNS, "a exits", *["a carry"] * 5, "a power cut"],
            *[*patience("b"), "a power back", *A_RUNS],
        ],
        "I1: what had ended is run once more, and nobody asked for it",
    ),
}


@pytest.mark.parametrize(("weakened", "moves", "wrong"), SAFEGUARDS.values(), ids=SAFEGUARDS)
def test_the_model_misses_each_safeguard_and_all_is_well_with_it(
    weakened: type[Decisions], moves: list[str], wrong: str
) -> None:
    with pytest.raises(Broken, match=wrong):
        settled(weakened(), moves)
    settled(Decisions(), moves)


@pytest.mark.parametrize(("moves", "wrong"), WRONGS_OF_BEFORE.values(), ids=WRONGS_OF_BEFORE)
def test_the_model_finds_what_the_version_before_did_wrong(moves: list[str], wrong: str) -> None:
    with pytest.raises(Broken, match=wrong):
        settled(Before(), moves)


@pytest.mark.parametrize(("moves", "wrong"), WRONGS_OF_BEFORE.values(), ids=WRONGS_OF_BEFORE)
def test_where_the_version_before_did_wrong_all_is_well(moves: list[str], wrong: str) -> None:
    settled(Decisions(), moves)


@bounded(150)
@given(st.lists(st.sampled_from(CHUNKS), max_size=60), st.sampled_from([None, *HOSTS]))
def test_whatever_happens_the_invariants_hold(chunks: list[list[str]], gone: str | None) -> None:
    moves = [move for chunk in chunks for move in chunk]
    settled(Decisions(), [*A_RUNS, *moves], gone)
    settled(Decisions(), moves, gone)


@pytest.mark.parametrize(
    ("first", "number"), [(0, 300), pytest.param(0, 10_000, marks=pytest.mark.thorough)]
)
def test_no_walk_breaks_an_invariant(first: int, number: int) -> None:
    assert broken(Decisions, range(first, first + number)) == {}


def test_walks_find_the_version_before_guilty() -> None:
    found = set(broken(Before, range(100)).values())
    assert {word[:2] for word in found} >= {"I2", "I3", "I4"}
