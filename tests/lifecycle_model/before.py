"""The decisions of the version before this lifecycle, for the model to find guilty.

Claims came from memory, a process decided by itself what its silence meant, and nothing looked at
what a state had replaced.
"""

from collections.abc import Sequence
from uuid import UUID

from prefect.client.schemas.objects import State, StateType

from flows.runtime.cancellation import Reason
from flows.runtime.history import RESTARTED
from flows.runtime.lifecycle import Begin, Claim, Container, Phase, RecordView, RunView, Step
from flows.runtime.ownership import TakeOver
from tests.lifecycle_model.decisions import STARTS_AFTER_DEATHS, Decisions

_CRASHED = (StateType.CRASHED, "Its process died; nothing on its host runs it.")
_OPEN = (Phase.PREPARED, Phase.BEGAN)


class Before(Decisions):
    """As `flows` of then: `worker`, `container_task`, `sweep` and `takeover`."""

    asks_before_claim = False
    looks_back = False
    has_lease = False
    waits_for_engine = False
    hears_after_end = False
    looks_twice = False
    crashes_in_passing = True

    def claim_id(self) -> UUID | None:
        return None

    def running_id(self) -> UUID | None:
        return None

    def is_claimable(self, states: Sequence[State], label: str | None, host: str) -> bool:
        return states[-1].is_scheduled() and label in (None, host)

    def home_of(self, states: Sequence[State], label: str | None) -> str | None:
        """Runs that waited were nobody's."""
        return None

    def has_starts_left(self, states: Sequence[State]) -> bool:
        return sum(map(State.is_crashed, states)) <= STARTS_AFTER_DEATHS

    def begin(self, record: RecordView, states: Sequence[State], fence: int) -> Begin:
        if record.phase is Phase.NONE:
            return Begin.PREPARE
        if record.phase is not Phase.TOLD:
            return Begin.GO_ON
        is_asked_for_again = any(state.is_final() and not state.is_crashed() for state in states)
        return Begin.PREPARE if record.is_retried or is_asked_for_again else Begin.TELL_END

    def why_stop(self, run: RunView | None, claim: Claim) -> Reason | None:
        is_cancelling = run is not None and run.type is StateType.CANCELLING
        return Reason.CANCEL if is_cancelling else None

    def next_step(
        self, run: RunView | None, record: RecordView, container: Container, claim: Claim
    ) -> Step:
        if run is None:
            return Step.NOTHING
        is_told = record.phase in (Phase.NONE, Phase.TOLD)
        if run.host not in (None, claim.host):
            return Step.NOTHING if is_told else Step.REMOVE
        is_lost = run.type is StateType.RUNNING or run.is_lost
        if is_lost or (run.type is StateType.CRASHED and not is_told):
            return Step.RESTART if run.has_starts_left else self._settled(record, Step.SET_CRASHED)
        if run.type is StateType.CANCELLING:
            return self._settled(record, Step.SET_CANCELLED)
        is_final = run.type in (StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED)
        return self._settled(record, Step.NOTHING) if is_final else Step.NOTHING

    def _settled(self, record: RecordView, last: Step) -> Step:
        if record.phase in _OPEN:
            return Step.END_CANCELED
        return Step.TELL if record.phase is Phase.ENDED else last

    def take_over(self, run: RunView) -> TakeOver:
        if run.type is not StateType.RUNNING:
            return TakeOver.LEAVE
        return TakeOver.START_ELSEWHERE if run.has_starts_left else TakeOver.SET_CRASHED

    def restarts(self) -> Sequence[tuple[StateType, str]]:
        return [_CRASHED, (StateType.SCHEDULED, RESTARTED)]

    def restarts_elsewhere(self) -> Sequence[tuple[StateType, str]]:
        return self.restarts()
