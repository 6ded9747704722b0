"""Steps of the process that carries a run: it prepares, executes and tells attempts."""

from prefect.client.schemas.objects import State, StateType

from flows.outcome import UNHEARD
from flows.runtime.cancellation import Reason
from flows.runtime.history import HANDED_OVER
from flows.runtime.lifecycle import Begin, Container, Phase
from tests.lifecycle_model.host import (
    ABANDONED,
    CANCELED,
    FAILED,
    LOST,
    SUCCEEDED,
    TAKEN,
    Away,
    Box,
    Carried,
    Process,
    Record,
    Worker,
)
from tests.lifecycle_model.requests import Requests, Steps

# In this state a run ends by itself.
WORDS = {
    SUCCEEDED: StateType.COMPLETED,
    FAILED: StateType.FAILED,
    LOST: StateType.FAILED,
    CANCELED: StateType.CANCELLED,
    ABANDONED: StateType.CRASHED,
}
# After these reasons the process sets no state: a person's word, or another's, stands.
SILENT = {Reason.SETTLED, Reason.DELETED, Reason.TAKEN, Reason.SUSPEND}


# After so many looks that were not answered, the version before gave an engine up.
_ABSENCES = 6
# What is done first with what an earlier claim or request left.
_BEFORE = (Begin.CLEAR, Begin.CLOSE)


class Carrying(Requests):
    """A flow, from the state Running on."""

    def run(self, worker: Worker, carried: Carried) -> Process:
        host, server, decide = self.host, self.server, self.decide
        states = yield from self.ask(lambda: list(server.states))
        if decide.looks_back and (state := decide.replaced(states)):
            yield from self.put_back(states[-1], state)
            return
        while (first := decide.begin(host.record_view(), states, carried.claim.fence)) in _BEFORE:
            if first is Begin.CLEAR:
                yield from self.let_go()
            else:
                yield from self.end_canceled()
                yield from self.tell()
        yield from self.run_attempts(worker, carried, states, first)

    def run_attempts(
        self, worker: Worker, carried: Carried, states: list[State], first: Begin
    ) -> Steps[None]:
        """One attempt after the other, until one is not retried; then the state."""
        host, decide = self.host, self.decide
        goes_on = first is not Begin.TELL_END
        while goes_on:
            if first is Begin.PREPARE:
                if carried.reason:
                    break
                if worker.is_told_to_end:
                    yield from self.leave(worker, carried)
                    return
                yield from self.prepare(states, carried.claim.fence)
            if (yield from self.execute(worker, carried)):
                yield from self.leave(worker, carried)
                return
            yield from self.tell(is_whole=carried.reason is not Reason.DELETED)
            is_stopped = carried.reason is not None and decide.hears_after_end
            goes_on = not is_stopped and host.is_retried(host.records[-1])
            first = Begin.PREPARE
        yield from self.set_end(worker, carried)

    def prepare(self, states: list[State], fence: int) -> Steps[None]:
        """Another attempt, once nothing is left of the one before."""
        host, decide = self.host, self.decide
        if decide.waits_for_engine:
            yield from self.order(host.boxes.clear)
        known = (each.number for each in host.records)
        number = max([0, *self.server.started, *known]) + 1
        yield from self.ask(self.end_those_of_others)
        host.records.append(Record(number, decide.request_of(states, host.record_view()), fence))

    def end_those_of_others(self) -> None:
        """Of attempts that their own hosts tell nothing of: silent ones, or such that lost them."""
        known = {each.number for each in self.host.records if each.phase is not Phase.TOLD}
        for number in self.server.started - known:
            self.server.finished.setdefault(number, LOST)

    def execute(self, worker: Worker, carried: Carried) -> Steps[bool]:
        """Run the newest attempt to its end; whether its container is left to a later process."""
        host, decide = self.host, self.decide
        record = host.records[-1]
        if record.phase is Phase.PREPARED:
            yield from self.hold(worker)
            if not (carried.reason or worker.is_told_to_end):
                record.phase = Phase.BEGAN
                yield
                yield from self.hold(worker)
                yield from self.order(lambda: self.create(record.number))
        if record.phase is Phase.BEGAN:
            outcome = yield from self.watch(worker, carried)
            if outcome is None:
                return True
            record.phase, record.outcome = Phase.ENDED, outcome
        elif record.phase is Phase.PREPARED:
            if carried.reason in (None, Reason.SUSPEND):
                return True
            record.outcome = TAKEN if carried.reason is Reason.TAKEN else CANCELED
            record.phase = Phase.ENDED
        if decide.waits_for_engine or host.has_engine:
            yield from self.order(lambda: host.boxes.pop(record.number, None))
        return False

    def create(self, number: int) -> None:
        self.host.boxes.setdefault(number, Box(number, Container.CREATED))

    def watch(self, worker: Worker, carried: Carried) -> Steps[str | None]:
        """How the container ended; None where it is left. Freezing is the guard's."""
        host, record, silence = self.host, self.host.records[-1], 0
        while not (carried.reason or worker.is_told_to_end):
            yield
            if carried.reason or worker.is_told_to_end:
                break
            try:
                box = host.engine(lambda: host.boxes.get(record.number))
            except Away:
                silence += 1
                if silence > _ABSENCES and not self.decide.waits_for_engine:
                    return LOST
                continue
            silence = 0
            if box is None:
                return LOST
            if box.state is Container.STOPPED:
                return box.ended
            if not self.decide.has_lease or worker.holds_lease():
                self.go_on(box)
        return (yield from self.stop_for(carried.reason))

    def stop_for(self, reason: Reason | None) -> Steps[str | None]:
        """What becomes of the container for this reason; None where it is left."""
        record = self.host.records[-1]
        if reason is None:
            return None
        if reason is Reason.SUSPEND:
            yield from self.order(self.host.pause)
            return None
        if reason is Reason.TAKEN:
            yield from self.order(lambda: self.host.boxes.pop(record.number, None))
            return TAKEN
        if reason is Reason.CANCEL:
            for _ in range(_ABSENCES):
                if self.host.has_engine:
                    break
                yield
            else:
                return None
        return (yield from self.stop(record))

    def go_on(self, box: Box) -> None:
        if box.state is Container.CREATED:
            box.state, box.request = Container.RUNNING, None
            self.started(self.host, box)
            self.emit_started(box.attempt)
        elif box.state is Container.PAUSED:
            box.state = Container.RUNNING

    def emit_started(self, number: int) -> None:
        """An event, which is lost where the server is away."""
        if self.host.is_served and self.server.exists:
            self.server.started.add(number)

    def stop(self, record: Record) -> Steps[str]:
        """Stop the container; its own outcome, where it had come to its end before."""
        host = self.host
        box = yield from self.order(lambda: host.boxes.get(record.number))
        yield from self.order(lambda: host.stop(record.number))
        return CANCELED if box is None or box.ended is None else box.ended

    def end_canceled(self) -> Steps[None]:
        """End what an attempt left, for nobody waits for it any more."""
        record = self.host.records[-1]
        if record.phase in (Phase.PREPARED, Phase.BEGAN):
            outcome = yield from self.stop(record)
            record.phase, record.outcome = Phase.ENDED, outcome
        yield from self.order(lambda: self.host.boxes.pop(record.number, None))

    # Its end.

    def tell(self, *, is_whole: bool = True) -> Steps[None]:
        """Events and artifacts of all attempts that are not told; then note them as told."""
        server = self.server
        for record in self.host.records:
            if record.phase is not Phase.ENDED or record.outcome is None:
                continue
            number, outcome = record.number, record.outcome

            def emit(number: int = number, outcome: str = outcome) -> None:
                server.started.add(number)
                server.finished.setdefault(number, outcome)

            yield from self.ask(emit)
            if is_whole and outcome != TAKEN:
                yield from self.ask(lambda number=number: server.reports.add(number))  # type: ignore[misc]
            yield
            record.phase = Phase.TOLD

    def let_go(self) -> Steps[None]:
        """Remove what is here of a run that is not this host's any more; tell that it is over."""
        yield from self.order(self.host.boxes.clear)
        record = self.host.last()
        if record is not None and record.phase is not Phase.TOLD:
            record.phase, record.outcome = Phase.ENDED, TAKEN
            yield from self.tell()

    def set_end(self, worker: Worker, carried: Carried) -> Steps[None]:
        """The final state, after a last look: nothing of the server's compares."""
        host, server, decide = self.host, self.server, self.decide
        record = host.last()
        outcome = CANCELED if record is None else record.outcome

        def end() -> None:
            run = self.view()
            reason = carried.reason
            if decide.looks_back:
                reason = decide.why_stop(run, carried.claim)
            if run is None or SILENT & {reason, carried.reason}:
                return
            kind = WORDS[outcome or CANCELED]
            if reason is Reason.CANCEL or server.now.type is StateType.CANCELLING:
                if server.now.type is not StateType.CANCELLING:
                    return
                kind = StateType.CANCELLED
            final = server.state(kind, message=outcome or "", transition=decide.claim_id())
            server.propose(final, host.name)

        yield from self.hold(worker)
        yield from self.ask(end)

    def leave(self, worker: Worker, carried: Carried) -> Steps[None]:
        """A worker that ends hands over; of a suspended run it says nothing. A run is Cancelled
        also where its engine was not heard of: what is left may still run."""
        server, decide, told = self.server, self.decide, carried.reason
        if told not in (None, Reason.CANCEL):
            return
        if told is Reason.CANCEL:
            word = UNHEARD if decide.tells_what_is_left else ""
            state = server.state(StateType.CANCELLED, message=word, transition=decide.claim_id())
        else:
            state = server.state(StateType.SCHEDULED, "AwaitingRetry", HANDED_OVER)

        def set_state() -> None:
            reason = decide.why_stop(self.view(), carried.claim)
            if not decide.looks_back or reason is told:
                server.propose(state, self.host.name)

        yield from self.hold(worker)
        yield from self.ask(set_state)
