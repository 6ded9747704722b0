"""What the model's processes ask: the decisions of `flows.runtime`, which `before` replaces."""

from collections.abc import Sequence
from uuid import UUID

from prefect.client.schemas.objects import State, StateType

from flows.runtime import history, lifecycle, ownership
from flows.runtime.cancellation import Reason
from flows.runtime.history import RESTARTED, TAKEN_OVER
from flows.runtime.lifecycle import Begin, Claim, Container, RecordView, RunView, Step
from flows.runtime.ownership import TakeOver
from tests.lifecycle_model.server import RUN_ID

STARTS_AFTER_DEATHS = 2


class Decisions:
    """Those of today. The flags are ways of doing that the version before had otherwise."""

    # A run that was seen to wait is asked for again before it is claimed.
    asks_before_claim = True
    # What a claim replaced is looked at, as is what Running replaced.
    looks_back = True
    # A process acts only while it may be sure that no other host does.
    has_lease = True
    # An engine that does not answer is waited for, not given up.
    waits_for_engine = True
    # What a person says is heard after the container's end, too.
    hears_after_end = True
    # Who takes over raises the fence and then looks at the heartbeats once more.
    looks_twice = True
    # A final state says so where a container may be left.
    tells_what_is_left = True
    # A run that goes back to its queue is told as a crash in between.
    crashes_in_passing = False

    def claim_id(self) -> UUID | None:
        return ownership.claim_id(RUN_ID)

    def running_id(self) -> UUID | None:
        return ownership.running_id(RUN_ID)

    def is_claimable(self, states: Sequence[State], label: str | None, host: str) -> bool:
        return ownership.is_claimable(states, label, RUN_ID, host)

    def home_of(self, states: Sequence[State], label: str | None) -> str | None:
        return ownership.home_of(states, label, RUN_ID)

    def replaced(self, states: Sequence[State]) -> State | None:
        return history.replaced(states)

    def request_of(self, states: Sequence[State], record: RecordView) -> UUID | None:
        return history.request_of(states, record)

    def has_starts_left(self, states: Sequence[State]) -> bool:
        return history.deaths(states) < STARTS_AFTER_DEATHS

    def begin(self, record: RecordView, states: Sequence[State], fence: int) -> Begin:
        return lifecycle.begin(record, self.request_of(states, record), fence)

    def why_stop(self, run: RunView | None, claim: Claim) -> Reason | None:
        return lifecycle.why_stop(run, claim)

    def next_step(
        self, run: RunView | None, record: RecordView, container: Container, claim: Claim
    ) -> Step:
        return lifecycle.next_step(run, record, container, claim)

    def take_over(self, run: RunView) -> TakeOver:
        return ownership.take_over(run)

    def restarts(self) -> Sequence[tuple[StateType, str]]:
        """The states by which a run whose process died goes back to its queue."""
        return [(StateType.SCHEDULED, RESTARTED)]

    def restarts_elsewhere(self) -> Sequence[tuple[StateType, str]]:
        """The states by which a run of a silent host does."""
        return [(StateType.SCHEDULED, TAKEN_OVER)]
