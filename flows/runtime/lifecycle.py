"""State machine of a run's life: pure functions that alone decide what happens to it next.

They take what the server, the attempt store and the engine say, as plain values, and name one step;
those who call them do it. Nothing here waits, reads a clock or talks to anybody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from uuid import UUID

from prefect.client.schemas.objects import State, StateType

from flows.runtime.cancellation import Reason

# The messages of states that put a run back into its queue to go on with what somebody asked for.
RESTARTED = "Its process died; another takes over."
HANDED_OVER = "Its worker stopped; the next one takes over."
_GOING_ON = {RESTARTED, HANDED_OVER}


class Phase(IntEnum):
    """How far the newest attempt of a run got, by its host's attempt store."""

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
    `request` is what it answers to, see `request_of`; `has_starts_left`, that a run whose process
    died may be started again.
    """

    type: StateType
    host: str | None = None
    fence: int = 0
    request: UUID | None = None
    has_starts_left: bool = True


@dataclass(frozen=True, slots=True)
class RecordView:
    """The newest attempt as its host's store has it. `answers` is the request that it was made
    for, None where the version before made it; `is_retried`, that another attempt follows it."""

    phase: Phase = Phase.NONE
    answers: UUID | None = None
    is_retried: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose a run is while a process here carries it: this host, and the fence it was taken at."""

    host: str
    fence: int = 0


class Begin(Enum):
    """What a process that was given a run does first."""

    PREPARE = auto()
    GO_ON = auto()
    TELL_END = auto()


class Step(Enum):
    """What is done next to a run that no process carries."""

    NOTHING = auto()
    WAIT = auto()
    REMOVE = auto()
    PAUSE = auto()
    END_CANCELED = auto()
    END_ABANDONED = auto()
    TELL = auto()
    SET_END = auto()
    SET_CANCELLED = auto()
    SET_CRASHED = auto()
    RESTART = auto()


def is_request(state: State) -> bool:
    """Whether a state asks for the run, rather than to go on with it."""
    return state.is_scheduled() and state.message not in _GOING_ON


def request_of(states: Sequence[State]) -> UUID | None:
    """The id of the newest state, of these oldest first, by which somebody asked for the run."""
    return next((state.id for state in reversed(states) if is_request(state)), None)


def begin(record: RecordView, request: UUID | None) -> Begin:
    """What a process does with a run that it was given to answer `request`."""
    if record.phase is Phase.NONE:
        return Begin.PREPARE
    if record.phase is not Phase.TOLD:
        return Begin.GO_ON
    is_answered = record.answers == request and not record.is_retried
    return Begin.TELL_END if is_answered else Begin.PREPARE


def why_stop(run: RunView | None, claim: Claim) -> Reason | None:
    """Why a process stops a run that it carries, None to go on; `run` is None where it is gone."""
    if run is None:
        return Reason.DELETED
    if (run.host not in (None, claim.host)) or run.fence != claim.fence:
        return Reason.TAKEN
    match run.type:
        case StateType.CANCELLING | StateType.CANCELLED:
            return Reason.CANCEL
        case StateType.COMPLETED | StateType.FAILED | StateType.CRASHED:
            return Reason.SETTLED
        case StateType.PAUSED:
            return Reason.SUSPEND
        case StateType.SCHEDULED:
            return Reason.TAKEN
        case _:
            return None


def next_step(run: RunView, record: RecordView, container: Container, claim: Claim) -> Step:
    """The next step of a run that no process here carries, whose host may be another."""
    if run.host not in (None, claim.host):
        return _step_elsewhere(record, container)
    match run.type:
        case StateType.SCHEDULED | StateType.PENDING:
            return Step.NOTHING
        case StateType.PAUSED:
            return Step.PAUSE if container is Container.RUNNING else Step.NOTHING
        case StateType.CANCELLING | StateType.CANCELLED:
            return _step_canceled(run, record)
        case StateType.RUNNING:
            return _step_lost(run, record)
        case StateType.CRASHED:
            return _step_crashed(run, record)
        case _:
            return _step_settled(record)


def _step_elsewhere(record: RecordView, container: Container) -> Step:
    if record.phase is Phase.NONE or record.phase is Phase.TOLD:
        return Step.NOTHING
    return Step.WAIT if container is Container.UNKNOWN else Step.REMOVE


def _step_canceled(run: RunView, record: RecordView) -> Step:
    if record.phase in (Phase.PREPARED, Phase.BEGAN):
        return Step.END_CANCELED
    if record.phase is Phase.ENDED:
        return Step.TELL
    return Step.SET_CANCELLED if run.type is StateType.CANCELLING else Step.NOTHING


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
    return Step.NOTHING if step is Step.SET_CRASHED else step
