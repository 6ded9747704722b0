"""The soak's plan is its seed's, and its checks find what they are for."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from benchmarks.soaking.checks import Evidence, violations
from benchmarks.soaking.people import Run, Said
from benchmarks.soaking.plan import FLOOD_LINES, KINDS, Kind, Task, What, Word, deeds, tasks
from benchmarks.soaking.server import Event, State
from benchmarks.soaking.witness import Seen
from flows.payload.parse import parse

NOON = datetime(2026, 2, 3, 12, tzinfo=UTC)
PERSON = "A person says"
KIND = {kind.name: kind for kind in KINDS}
DONE = ("SCHEDULED Scheduled", "PENDING Pending", "RUNNING Running", "COMPLETED Completed")
TOLD = (("started", 1, ""), ("finished", 1, "succeeded"))
WORKED = ((1.0, "one", "a", "begin"), (9.0, "one", "a", "end 0"))


def history(*states: str) -> list[State]:
    """Of words such as `FAILED TimedOut its message`."""
    words = [state.split(" ", 2) for state in states]
    return [
        State(type_, name, "".join(message), NOON + timedelta(seconds=n))
        for n, (type_, name, *message) in enumerate(words)
    ]


def evidence(
    *states: str,
    kind: str = "success",
    said: tuple[tuple[Word, float], ...] = (),
    told: tuple[tuple[str, int, str], ...] = TOLD,
    seen: tuple[tuple[float, str, str, str], ...] = WORKED,
) -> Evidence:
    code = KIND[kind].exit_code
    return Evidence(
        "run",
        Task(1, KIND[kind], 0),
        [Said(word, True, second) for word, second in said],
        history(*states),
        [
            Event(name, n, outcome, code, NOON + timedelta(seconds=3 * n))
            for name, n, outcome in told
        ],
        [Seen(*line) for line in seen],
    )


def test_a_seed_has_its_plan_and_another_has_another() -> None:
    assert tasks(1, 50) == tasks(1, 50) != tasks(2, 50)
    for whom in ("one", "two", "server"):
        assert list(islice(deeds(1, whom), 50)) == list(islice(deeds(1, whom), 50))
    assert list(islice(deeds(1, "one"), 50)) != list(islice(deeds(1, "two"), 50))


def test_a_soak_has_as_many_of_each_of_ten_kinds_all_words_and_all_deeds() -> None:
    planned = tasks(1, 1000)
    assert len(KINDS) == 10
    assert Counter(task.kind.name for task in planned) == dict.fromkeys(KIND, 100)
    assert {saying.word for task in planned for saying in task.sayings} == set(Word)
    done = {deed.what for whom in ("one", "server") for deed in islice(deeds(1, whom), 500)}
    assert done == set(What)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_all_payloads_but_the_rejected_are_taken(kind: Kind) -> None:
    if kind.name == "rejected":
        with pytest.raises(Exception, match="timeoutSecond"):
            parse(kind.payload(3))
    else:
        parse(kind.payload(3))


@pytest.mark.parametrize(
    "run",
    [
        evidence(*DONE),
        evidence(*DONE[:3], "FAILED Failed exited 3", kind="failure",
                 told=(("started", 1, ""), ("finished", 1, "failed"),
                       ("started", 2, ""), ("finished", 2, "failed"))),
        evidence(*DONE[:2], "FAILED Rejected", kind="rejected", told=(), seen=()),
        evidence(*DONE[:3], f"CANCELLING Cancelling {PERSON} cancel.", "CANCELLED Cancelled",
                 said=((Word.CANCEL, 5.0),),
                 told=(("started", 1, ""), ("finished", 1, "canceled"))),
        evidence(*DONE[:3], f"FAILED Failed {PERSON} set-failed.", said=((Word.SET_FAILED, 5.0),)),
        evidence(said=((Word.DELETE, 5.0),)),
        evidence(*DONE, f"SCHEDULED AwaitingRetry {PERSON} retry.", *DONE[1:],
                 said=((Word.RETRY, 10.0),),
                 told=(*TOLD, ("started", 2, ""), ("finished", 2, "succeeded")),
                 seen=(*WORKED, (11.0, "two", "b", "begin"))),
        evidence(*DONE[:3], f"FAILED Failed {PERSON} set-failed.", "RUNNING Running",
                 f"FAILED Failed {PERSON} set-failed.", said=((Word.SET_FAILED, 5.0),)),
        evidence(*DONE, told=(*TOLD, ("started", 2, ""), ("finished", 2, "succeeded")),
                 seen=(*WORKED, (11.0, "two", "b", "begin"))),
    ],
    ids=["success", "failure", "rejected", "cancelled", "settled", "deleted", "retried",
         "set again", "begun anew"],
)  # fmt: skip
def test_what_went_as_it_must_violates_nothing(run: Evidence) -> None:
    assert list(violations(run)) == []


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (evidence(*DONE, seen=(*WORKED, (2.0, "two", "b", "second"))), "two containers at once"),
        (evidence(*DONE, told=TOLD[:1]), "attempt 1: 1 started, 0 finished"),
        (evidence(*DONE, told=(*TOLD, TOLD[1])), "attempt 1: 1 started, 2 finished"),
        (evidence(*DONE, seen=(*WORKED, (10.0, "one", "b", "begin"))),
         "2 containers, 1 attempts told as started"),
        (evidence(*DONE, told=(*TOLD, ("started", 2, ""), ("finished", 2, "succeeded"))),
         "2 attempts with a verdict of their own, not 1"),
        (evidence(*DONE[:3], said=((Word.RETRY, 1.0),)), "stays Running"),
        (evidence(), "gone from the server"),
        (evidence(*DONE, "FAILED InfrastructureError no disk"),
         "Completed () became InfrastructureError (no disk)"),
        (evidence(*DONE[:3], "CRASHED Crashed", *DONE), "Crashed () became Scheduled ()"),
        (evidence(*DONE[:3], "FAILED Failed exited 3"),
         "made to be Completed, and it is Failed (exited 3)"),
        (evidence(*DONE, told=(("started", 1, ""), ("finished", 1, "infrastructure"))),
         "Completed, and its last attempt was told as infrastructure"),
        (evidence(*DONE[:3], f"FAILED Failed {PERSON} set-failed.", "COMPLETED Completed",
                  said=((Word.SET_FAILED, 5.0),)),
         "a person set it Failed, and it is Completed ()"),
        (evidence(*DONE[:3], f"CANCELLING Cancelling {PERSON} cancel.", "COMPLETED Completed",
                  said=((Word.CANCEL, 5.0),)),
         "cancelled, and it is Completed ()"),
        (evidence(said=((Word.DELETE, 5.0),), seen=(*WORKED, (400.0, "one", "a", "beat"))),
         "its container worked on 395 s after a person's word"),
        (evidence(*DONE, f"SCHEDULED AwaitingRetry {PERSON} retry.", *DONE[1:],
                  said=((Word.RETRY, 10.0),)),
         "asked for again, and ended by an attempt that had ended before"),
    ],
)  # fmt: skip
def test_what_went_wrong_is_found(run: Evidence, sentence: str) -> None:
    assert sentence in list(violations(run))


def test_another_exit_code_than_the_tasks_is_found() -> None:
    run = evidence(*DONE)
    wrong = [event._replace(exit_code=3) for event in run.events]
    assert list(violations(replace(run, events=wrong))) == ["told to have exited 3, not 0"]


FLOOD = {"lines": FLOOD_LINES, "complete": True}
REPORT: dict[str, Any] = {
    "attempt": 1, "logs": FLOOD, "tests": {"total": 2, "failed": 1}, "outputs": [{"collected": 1}]
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change", "sentences"),
    [
        ("flood", {}, []),
        ("flood", {"logs": FLOOD | {"lines": 7, "complete": False}}, []),
        ("flood", {"logs": FLOOD | {"lines": 7}},
         [f"7 lines of output, not {FLOOD_LINES}, and called complete"]),
        ("report", {}, []),
        ("report", {"tests": None},
         ["a test report of two tests, of which one failed, was read as {}"]),
        ("report", {"outputs": [{"collected": 0}]}, ["its output was not collected"]),
        ("report", {"attempt": 2, "tests": None}, []),
    ],
)  # fmt: skip
def test_what_a_task_left_is_held_against_what_it_was_made_to_leave(
    kind: str, change: dict[str, Any], sentences: list[str]
) -> None:
    run = replace(evidence(*DONE, kind=kind), report=REPORT | change)
    assert list(violations(run)) == sentences


def test_words_are_said_in_order_and_what_comes_too_late_is_not_said() -> None:
    planned = [task for task in tasks(1, 1000) if len(task.sayings) == 2]
    suspended = next(task for task in planned if task.sayings[0].word is Word.SUSPEND)
    at_once = tuple(replace(saying, seconds=0) for saying in suspended.sayings)
    run = Run("id", replace(suspended, sayings=at_once))
    assert [run.look(type_) for type_ in ("SCHEDULED", "RUNNING", "PAUSED")] == [
        None,
        Word.SUSPEND,
        Word.RESUME,
    ]
    assert run.look("COMPLETED") is None
    assert run.is_over
    late = Run("id", replace(suspended, sayings=at_once))
    assert late.look("COMPLETED") is None
    assert late.is_over
