"""Admission control: which queued tasks may start on this host now, by CPUs and memory.

What a task declares in `container.resources` is set aside for it while it runs; one that declares
nothing takes nothing. Tasks start in the order of their queue; a small one may pass a large one
that waits for room, until the large one has waited for long enough to have room kept for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID

from flows.text import one_line
from flows.units import NOTHING, Resources

# How long others may pass by a task that waits for room.
PATIENCE_SECONDS = 60.0
# Of the sentence on what a run waits for, which has words of its payload: it is a tag.
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class QueuedTask:
    """What a queued task declares, and for how long it has waited. `missing` are capabilities that
    this host lacks; `runs_here`, that its container runs here already; `other_host`, where it may.
    """

    id: UUID
    needs: Resources = NOTHING
    missing: tuple[str, ...] = ()
    runs_here: bool = False
    other_host: str | None = None
    waited_seconds: float = 0.0


class Decision(Enum):
    """What becomes of a task now."""

    START = auto()
    WAIT = auto()
    REJECT = auto()


@dataclass(frozen=True, slots=True)
class Admission:
    """A decision on a task, in a sentence where it is not started, and what is set aside for it."""

    decision: Decision
    sentence: str = ""
    reserved: Resources = NOTHING


def admit(
    tasks: Iterable[QueuedTask], total: Resources, used: Resources, host: str, slots: int
) -> dict[UUID, Admission]:
    """Decide on every task in the queue's order but those that wait for one of `slots` alone."""
    free = total - used
    decisions: dict[UUID, Admission] = {}
    for task in sorted(tasks, key=lambda task: not task.runs_here):
        decided = _admission_of(task, total, free, host)
        if decided.decision is Decision.START:
            if not slots:
                continue
            slots -= 1
        free -= decided.reserved
        decisions[task.id] = decided
    return decisions


def _admission_of(task: QueuedTask, total: Resources, free: Resources, host: str) -> Admission:
    if task.runs_here:
        return Admission(Decision.START, reserved=task.needs)
    if task.other_host:
        return _wait(f"{task.other_host}, where its container may still run")
    if task.missing:
        return _wait(f"a worker with the capability {', '.join(task.missing)}")
    if too_much := total.lacks(task.needs):
        return Admission(
            Decision.REJECT,
            f"task.container.resources asks for {too_much}, and {host} has {total} for tasks: "
            "ask for less, or send the task to a larger host's queue",
        )
    if lacking := free.lacks(task.needs):
        is_kept = task.waited_seconds >= PATIENCE_SECONDS
        return _wait(f"{lacking} on {host}", task.needs if is_kept else NOTHING)
    return Admission(Decision.START, reserved=task.needs)


def _wait(what: str, reserved: Resources = NOTHING) -> Admission:
    return Admission(Decision.WAIT, one_line(f"waiting for {what}", _LONGEST), reserved)
