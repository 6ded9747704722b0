"""What must be true of every run when a soak is over. Pure: evidence in, sentences out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.soaking.people import Said
from benchmarks.soaking.plan import FLOOD_LINES, Task, Word
from benchmarks.soaking.server import Event, State
from benchmarks.soaking.witness import Seen
from scripts.stack import FINAL

# From a word that ends a run to the last sign of its container: as long as a host may be cut off
# before others take its runs over, and the time that it takes to notice.
_WORD_REACHES_SECONDS = 150.0
_OUTCOMES = {
    "Completed": "succeeded",
    "Failed": "failed",
    "TimedOut": "timed-out",
    "OutOfMemory": "out-of-memory",
}
_ENDING = {Word.CANCEL, Word.DELETE, Word.SET_FAILED, Word.SET_COMPLETED, Word.SET_CANCELLED}


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of one run; of a deleted one the server has no history."""

    run_id: str
    task: Task
    said: Sequence[Said]
    history: Sequence[State]
    events: Sequence[Event]
    seen: Sequence[Seen]
    # Of hosts, with the second of the machine.
    disks_lost: Sequence[tuple[str, float]] = ()
    # run.json of the newest attempt, where a host has it.
    report: Mapping[str, Any] | None = None

    @property
    def is_deleted(self) -> bool:
        return not self.history

    @property
    def lost(self) -> set[str]:
        """Containers that were there before their host's disk was lost."""
        return {
            seen.container
            for seen in self.seen
            for host, second in self.disks_lost
            if seen.host == host and seen.second < second
        }

    @property
    def asked_again(self) -> list[Said]:
        """Retries by hand."""
        return [said for said in self.said if said.word is Word.RETRY and said.is_taken]

    @property
    def answer(self) -> Sequence[State]:
        """The states since somebody last asked for the run."""
        asked = [n for n, state in enumerate(self.history) if _asks(state)]
        return self.history[asked[-1] :] if asked else self.history


def violations(run: Evidence) -> Iterator[str]:
    """Each as a sentence about the run."""
    if any(seen.says == "second" for seen in run.seen):
        yield "two containers at once"
    yield from _told_wrongly(run)
    yield from _worked_on(run)
    if run.is_deleted:
        if not any(said.word is Word.DELETE for said in run.said):
            yield "gone from the server"
        return
    if run.history[-1].type not in FINAL:
        yield f"stays {run.history[-1].name}"
        return
    yield from _changed_after_its_end(run.history)
    yield from _ends_wrongly(run)


def _told_wrongly(run: Evidence) -> Iterator[str]:
    told = Counter((event.attempt, event.name) for event in run.events)
    for attempt in sorted({event.attempt for event in run.events}):
        counts = told[attempt, "started"], told[attempt, "finished"]
        if counts != (1, 1):
            yield f"attempt {attempt}: {counts[0]} started, {counts[1]} finished"
    started = len({attempt for attempt, name in told if name == "started"})
    # With a disk goes the count of a run's attempts.
    containers = {seen.container for seen in run.seen} - run.lost
    if len(containers) > started:
        yield f"{len(containers)} containers, {started} attempts told as started"
    outcomes = Counter(event.outcome for event in run.events if event.name == "finished")
    verdicts = sum(outcomes[outcome] for outcome in _OUTCOMES.values())
    starts = 1 + len(run.asked_again) + _moves(run)
    if verdicts > (allowed := run.task.kind.verdicts * starts):
        yield f"{verdicts} attempts with a verdict of their own, not {allowed}"


def _moves(run: Evidence) -> int:
    """How often it had to begin anew: on another host, or where its host's disk was lost."""
    hosts = [seen.host for seen in run.seen]
    moved = sum(before != after for before, after in pairwise(hosts))
    return moved + len(run.lost)


def _worked_on(run: Evidence) -> Iterator[str]:
    """After a word that ends it."""
    if (seconds := late_seconds(run)) > _WORD_REACHES_SECONDS:
        yield f"its container worked on {seconds:.0f} s after a person's word"


def late_seconds(run: Evidence) -> float:
    """From the last word that ended the run to the last sign of its container."""
    late = 0.0
    for number, said in enumerate(run.said):
        if said.word in _ENDING and said.is_taken:
            until = next((each.second for each in run.said[number + 1 :]), float("inf"))
            signs = [seen.second for seen in run.seen if said.second < seen.second < until]
            late = max(late, *(sign - said.second for sign in signs), 0.0)
    return late


def _changed_after_its_end(history: Sequence[State]) -> Iterator[str]:
    for number, (before, after) in enumerate(pairwise(history)):
        if before.type not in FINAL or after.is_a_persons:
            continue
        # What an answer that was lost on its way to a host did is undone.
        if not (before.is_a_persons and _is_set_again(before, history[number + 2 :])):
            yield f"{before.name} ({before.message}) became {after.name} ({after.message})"


def _is_set_again(state: State, later: Sequence[State]) -> bool:
    return any((each.type, each.name) == (state.type, state.name) for each in later)


def _ends_wrongly(run: Evidence) -> Iterator[str]:
    last, words = run.history[-1], [state for state in run.answer if state.is_a_persons]
    ended = f"{last.name} ({last.message})"
    settled = [state for state in words if state.type in FINAL]
    if settled:
        if last.type not in {state.type for state in settled}:
            yield f"a person set it {settled[0].name}, and it is {ended}"
        return
    if any(state.type == "CANCELLING" for state in run.answer):
        if last.type != "CANCELLED":
            yield f"cancelled, and it is {ended}"
        return
    if last.type == "CANCELLED" and any(said.word is Word.CANCEL for said in run.said):
        # Before it ran: the server itself sets that.
        return
    yield from _not_as_made(run, last)


def _not_as_made(run: Evidence, last: State) -> Iterator[str]:
    kind = run.task.kind
    if last.name != kind.ends:
        yield f"made to be {kind.ends}, and it is {last.name} ({last.message})"
        return
    finished = [event for event in run.events if event.name == "finished"]
    if kind.ends not in _OUTCOMES:
        return
    if not finished:
        yield f"{kind.ends} without an event"
        return
    told = max(finished, key=lambda event: event.attempt)
    if told.outcome != _OUTCOMES[kind.ends]:
        yield f"{kind.ends}, and its last attempt was told as {told.outcome}"
    if run.report and run.report["attempt"] == told.attempt:
        yield from _left_wrongly(run, run.report)
    if kind.exit_code not in (None, told.exit_code):
        yield f"told to have exited {told.exit_code}, not {kind.exit_code}"
    if told.at < run.answer[0].at:
        yield "asked for again, and ended by an attempt that had ended before"


def _left_wrongly(run: Evidence, report: Mapping[str, Any]) -> Iterator[str]:
    """What the newest attempt left on disk, of a run that ended as it was made to."""
    task, lines = run.task, report["logs"]["lines"]
    if task.kind.name == "flood":
        expected = FLOOD_LINES + task.work_seconds
        if report["logs"]["complete"] and lines != expected:
            yield f"{lines} lines of output, not {expected}, and called complete"
    if task.kind.name == "report":
        tests = report["tests"] or {}
        if (tests.get("total"), tests.get("failed")) != (2, 1):
            yield f"a test report of two tests, of which one failed, was read as {tests}"
        if [output["collected"] for output in report["outputs"]] != [1]:
            yield "its output was not collected"


def _asks(state: State) -> bool:
    return state.type == "SCHEDULED" and state.is_a_persons
