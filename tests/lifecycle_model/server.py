"""One flow run as Prefect's server keeps it, by the rules of its `core_policy`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from uuid import UUID

from prefect.client.schemas.objects import State, StateDetails, StateType

RUN_ID = UUID(int=1)
PERSON = "a person"
# From these, a run goes no further by itself.
FINAL = {StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED}
_NO_CLAIM = {StateType.PENDING, StateType.CANCELLING, StateType.RUNNING, StateType.CANCELLED}
_RESUMED = {StateType.RUNNING, StateType.SCHEDULED, StateType.CANCELLING, *FINAL}


class Status(Enum):
    """How the server answers a proposed state."""

    ACCEPT = auto()
    REJECT = auto()
    ABORT = auto()


@dataclass(slots=True)
class Server:
    """`states` oldest first with their `authors`; labels are written without a comparison.

    `told` are the attempts whose events and artifacts it has; `on_state` is called after each one.
    """

    on_state: Callable[[State, State, str], None]
    states: list[State] = field(default_factory=list)
    authors: list[str] = field(default_factory=list)
    host: str | None = None
    fence: int = 0
    exists: bool = True
    heartbeats: dict[str, int] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)
    finished: dict[int, str] = field(default_factory=dict)
    reports: set[int] = field(default_factory=set)
    made: int = 100

    def __post_init__(self) -> None:
        self._add(self.state(StateType.SCHEDULED, "Scheduled"), PERSON)

    @property
    def now(self) -> State:
        return self.states[-1]

    def state(
        self,
        kind: StateType,
        name: str | None = None,
        message: str = "",
        transition: UUID | None = None,
    ) -> State:
        """A new one; `transition` is the id by which the server knows a repetition."""
        self.made += 1
        details = StateDetails.model_construct(transition_id=transition)
        return State.model_construct(
            id=UUID(int=self.made),
            type=kind,
            name=name or kind.value.title(),
            message=message,
            state_details=details,
        )

    def propose(self, proposed: State, author: str) -> tuple[Status, State]:
        """Set a state as the rules let it be; the status, and the state that it has now."""
        now, new = self.now, proposed.type
        repeats = proposed.state_details.transition_id
        if repeats is not None and repeats == now.state_details.transition_id:
            return Status.REJECT, now
        if now.type in FINAL and new in (
            StateType.CANCELLING,
            StateType.PAUSED,
            StateType.CRASHED,
        ):
            return Status.ABORT, now
        if now.type is StateType.CANCELLING and new is not StateType.CANCELLED:
            return Status.REJECT, now
        if new is StateType.CANCELLING and now.type in (StateType.SCHEDULED, StateType.PAUSED):
            # Nothing runs, as far as the server knows.
            self._add(self.state(StateType.CANCELLED), author)
            return Status.REJECT, self.now
        if new is StateType.PENDING and now.type in _NO_CLAIM:
            return Status.ABORT, now
        if new is StateType.PAUSED and now.type is not StateType.RUNNING:
            return Status.REJECT, now
        if now.type is StateType.PAUSED and new not in _RESUMED:
            return Status.REJECT, now
        self._add(proposed, author)
        return Status.ACCEPT, proposed

    def mark(self, kind: StateType) -> None:
        """A person sets a final state in the UI, which forces it past the rules."""
        self._add(self.state(kind, message="set by hand"), PERSON)

    def ask(self, kind: StateType, name: str = "") -> None:
        """A person cancels, suspends, resumes or retries."""
        self.propose(self.state(kind, name), PERSON)

    def mark_late(self) -> None:
        """The server's own service renames what waits."""
        if self.now.type is StateType.SCHEDULED and self.now.name != "Late":
            self._add(self.state(StateType.SCHEDULED, "Late"), "the server")

    def _add(self, state: State, author: str) -> None:
        before = self.states[-1] if self.states else None
        self.states.append(state)
        self.authors.append(author)
        if before is not None:
            self.on_state(before, state, author)
