"""State machine of a run's life: pure functions that alone decide what happens to it next.

They take what the server, the attempt store and the engine say, as plain values, and name one step;
those who call them do it. Nothing here waits, reads a clock or talks to anybody.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from uuid import UUID

from prefect.client.schemas.objects import State, StateType

from flows.runtime.cancellation import Reason


class Phase(IntEnum):
    """How far the newest attempt of a run got, by its host's attempt store."""

    UNREADABLE = auto()
    NONE = auto()
    PREPARED = auto()
    BEGAN = auto()
    ENDED = auto()
    TOLD = auto()


class Container(Enum):
    """What the engine says of an attempt's container; `UNKNOWN` where it does not answer."""

    UNKNOWN = auto()
    ABSENT = auto()
    CREATED = auto()
    RUNNING = auto()
    PAUSED = auto()
    STOPPED = auto()


@dataclass(frozen=True, slots=True)
class RunView:
    """A flow run as the server has it.

    `host` is the one that its label names, None for none; `fence` grows with each take-over;
    `request` is what it answers to, see `history.request_of`; `has_starts_left`, that one whose
    process died may be started again; `is_lost`, that nobody is about to begin it though it is
    Pending; `replaced`, what a state of ours came after and must not, see `history.replaced`.
    """

    type: StateType
    host: str | None = None
    fence: int = 0
    request: UUID | None = None
    has_starts_left: bool = True
    is_lost: bool = False
    replaced: State | None = None


@dataclass(frozen=True, slots=True)
class RecordView:
    """The newest attempt as its host's store has it. `answers` is the request that it was made
    for, None where the version before made it; `is_retried`, that another attempt follows it;
    `is_abandoned`, that it was given up for its
    process died too often; `is_past`, that its container's own death date is."""

    phase: Phase = Phase.NONE
    answers: UUID | None = None
    is_retried: bool = False
    fence: int = 0
    is_abandoned: bool = False
    is_past: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose a run is while a process here carries it: this host, and the fence it was taken at."""

    host: str
    fence: int = 0


class Begin(Enum):
    """What a process that was given a run does first; `CLEAR` removes what is left of an attempt
    that nobody may go on with, `CLOSE` ends one that answers an earlier request, and tells it."""

    CLEAR = auto()
    CLOSE = auto()
    PREPARE = auto()
    GO_ON = auto()
    TELL_END = auto()


class Step(Enum):
    """What is done next to a run that no process carries."""

    NOTHING = auto()
    WAIT = auto()
    SET_ASIDE = auto()
    REMOVE = auto()
    SET_AGAIN = auto()
    PAUSE = auto()
    END_CANCELED = auto()
    END_ABANDONED = auto()
    TELL = auto()
    SET_END = auto()
    SET_CANCELLED = auto()
    SET_CRASHED = auto()
    RESTART = auto()


def begin(record: RecordView, request: UUID | None, fence: int | None = None) -> Begin:
    """What a process does with a run that it was given to answer `request`, at this fence."""
    is_over = record.phase in (Phase.NONE, Phase.TOLD)
    is_fenced_off = fence is not None and record.fence != fence and not is_over
    if record.phase is Phase.UNREADABLE or is_fenced_off:
        return Begin.CLEAR
    if record.phase is Phase.NONE:
        return Begin.PREPARE
    if record.phase is not Phase.TOLD:
        return Begin.GO_ON if record.answers in (None, request) else Begin.CLOSE
    is_answered = record.answers == request and not record.is_retried
    return Begin.TELL_END if is_answered else Begin.PREPARE


def why_stop(run: RunView | None, claim: Claim) -> Reason | None:
    """Why a process stops a run that it carries, None to go on; `run` is None where it is gone."""
    if run is None:
        return Reason.DELETED
    if (run.host not in (None, claim.host)) or run.fence != claim.fence:
        return Reason.TAKEN
    match run.type:
        case StateType.CANCELLING:
            return Reason.CANCEL
        case StateType.COMPLETED | StateType.FAILED | StateType.CRASHED | StateType.CANCELLED:
            return Reason.SETTLED
        case StateType.PAUSED:
            return Reason.SUSPEND
        case StateType.SCHEDULED:
            return Reason.TAKEN
        case _:
            return None


def next_step(run: RunView | None, record: RecordView, container: Container, claim: Claim) -> Step:
    """The next step of a run that no process here carries, whose host may be another.

    `run` is None where the server has none.
    """
    step = _next_step(run, record, container, claim)
    is_silent = container is Container.UNKNOWN and not record.is_past
    return Step.WAIT if is_silent and step in _OF_THE_ENGINE else step


# What only the engine's answer lets one do, of a container that may be there.
_OF_THE_ENGINE = {
    Step.SET_ASIDE,
    Step.REMOVE,
    Step.PAUSE,
    Step.END_CANCELED,
    Step.END_ABANDONED,
}


def _next_step(run: RunView | None, record: RecordView, container: Container, claim: Claim) -> Step:
    if record.phase is Phase.UNREADABLE:
        return Step.NOTHING if run and _is_awaited(run) else Step.SET_ASIDE
    if run is None:
        return _step_unknown(record)
    is_fenced_off = run.fence != record.fence
    # One that was taken over is another host's, also while its label does not name that yet.
    here = (claim.host,) if is_fenced_off else (claim.host, None)
    is_open = record.phase in (Phase.PREPARED, Phase.BEGAN, Phase.ENDED)
    if is_open and (is_fenced_off or run.host not in here):
        return Step.REMOVE
    if run.host not in here or _is_awaited(run):
        return Step.NOTHING
    return _step_here(run, record, container)


def _is_awaited(run: RunView) -> bool:
    """Whether a process is about to begin it, which sees to what is left of it."""
    return run.type is StateType.SCHEDULED or (run.type is StateType.PENDING and not run.is_lost)


def _step_here(run: RunView, record: RecordView, container: Container) -> Step:
    match run.type:
        case StateType.PAUSED:
            return Step.PAUSE if container is Container.RUNNING else Step.NOTHING
        case StateType.CANCELLING | StateType.CANCELLED:
            return _step_canceled(run, record)
        case StateType.RUNNING | StateType.PENDING:
            return Step.SET_AGAIN if run.replaced else _step_lost(run, record)
        case StateType.CRASHED:
            return _step_crashed(run, record)
        case _:
            return _step_settled(record)


def _step_unknown(record: RecordView) -> Step:
    """Of a run that somebody deleted, or that another server on the same host has: its death date
    tells one from the other."""
    if not record.is_past or record.phase in (Phase.NONE, Phase.TOLD):
        return Step.NOTHING
    return Step.TELL if record.phase is Phase.ENDED else Step.END_ABANDONED


def _step_canceled(run: RunView, record: RecordView) -> Step:
    step = _step_settled(record)
    if step is Step.NOTHING and run.type is StateType.CANCELLING:
        return Step.SET_CANCELLED
    return step


def _step_settled(record: RecordView) -> Step:
    if record.phase in (Phase.PREPARED, Phase.BEGAN):
        return Step.END_CANCELED
    return Step.TELL if record.phase is Phase.ENDED else Step.NOTHING


def _step_lost(run: RunView, record: RecordView) -> Step:
    """Of a run whose process died."""
    if record.phase is Phase.ENDED and not record.is_retried:
        return Step.TELL
    if begin(record, run.request) is Begin.TELL_END:
        return Step.SET_END
    if run.has_starts_left:
        return Step.RESTART
    if record.phase in (Phase.PREPARED, Phase.BEGAN):
        return Step.END_ABANDONED
    return Step.TELL if record.phase is Phase.ENDED else Step.SET_CRASHED


def _step_crashed(run: RunView, record: RecordView) -> Step:
    """Of a run whose process died, and which Prefect's own worker has told as a crash."""
    step = _step_lost(run, record)
    if step is Step.SET_CRASHED or (step is Step.SET_END and record.is_abandoned):
        return Step.NOTHING
    return step
