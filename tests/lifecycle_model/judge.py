"""The invariants of a run's life, held against a world after each move and at its end."""

from uuid import UUID

from prefect.client.schemas.objects import State, StateType

from flows.outcome import UNHEARD
from flows.runtime import history, lifecycle
from flows.runtime.cancellation import Reason
from flows.runtime.lifecycle import Claim, Container, Phase, RunView
from tests.lifecycle_model.decisions import Decisions
from tests.lifecycle_model.host import FAILED, SUCCEEDED, TAKEN, Box, Host
from tests.lifecycle_model.server import FINAL, PERSON, Server


class Broken(AssertionError):
    """An invariant does not hold."""


class Judge:
    """Hears of what is done, and raises `Broken`. `ends` are how containers ended by themselves;
    `word` is what a person said last; `replaced`, a word that a state of `replacer` came after."""

    server: Server
    hosts: dict[str, Host]

    def __init__(self, decide: Decisions) -> None:
        self.decide = decide
        self.ends: list[tuple[UUID | None, str]] = []
        self.replaced: State | None = None
        self.replacer = ""
        self.word: StateType | None = None
        self.told: dict[str, UUID | None] = {}
        self.lost_disks = False

    def _request(self) -> UUID | None:
        return history.request_of(self.server.states)

    def check_containers(self) -> None:
        running = [host.name for host in self.hosts.values() for _ in host.running()]
        if len(running) > 1:
            raise Broken(f"I1: two containers run, on {' and '.join(running)}")

    def started(self, host: Host, box: Box) -> None:
        """A container is started."""
        request = box.request = self._request()
        states, authors = self.server.states, self.server.authors
        since = next(at for at, state in enumerate(states) if state.id == request)
        for state, author in zip(states[since:], authors[since:], strict=True):
            if author != PERSON and state.type in (StateType.COMPLETED, StateType.FAILED):
                raise Broken(f"I1: it runs once more after {name_of(state)}")
        if self.replaced is not None and self.replacer == host.name:
            raise Broken(f"I4: it runs although a person said {name_of(self.replaced)}")
        if host.name in self.told and self.told[host.name] == request:
            raise Broken("I4: another container is started after its end was ordered")
        ended = [each for each in host.records if each.answers == request]
        if any(each.outcome in (SUCCEEDED, FAILED) for each in ended):
            raise Broken("I1: what had ended is run once more, and nobody asked for it")

    def looked(self, host: Host, run: RunView | None, claim: Claim) -> None:
        """A worker was told how a run is that it carries."""
        if lifecycle.why_stop(run, claim) in (Reason.CANCEL, Reason.SETTLED):
            self.told[host.name] = self._request()

    def changed(self, before: State, state: State, author: str) -> None:
        if author == PERSON:
            if before.type is not StateType.PAUSED or state.type is not StateType.SCHEDULED:
                self.replaced = None
            return
        if state.type in FINAL:
            self._check_final(before, state, author)
            self.replaced = None
        elif before.type in FINAL or (
            before.type is StateType.PAUSED and state.type is not StateType.CANCELLED
        ):
            if before.type is not StateType.CRASHED:
                self.replaced, self.replacer = self.replaced or before, author
            elif not self.decide.crashes_in_passing:
                raise Broken("I2: a final state is followed by another without a Retry")
        elif self.replaced is not None and state.type is self.replaced.type:
            self.replaced = None

    def _check_final(self, before: State, state: State, author: str) -> None:
        said = self.replaced or (before if before.type in FINAL else None)
        if said is not None and state.type is not said.type:
            raise Broken(f"I2: {name_of(said)} is followed by {name_of(state)} without a Retry")
        if author not in self.hosts or said is not None:
            return
        if self.decide.crashes_in_passing and state.type is StateType.CRASHED:
            return
        is_cancelled = state.type is StateType.CANCELLED
        if state.message == UNHEARD or (is_cancelled and not self.hosts[author].has_engine):
            return
        if any(host.running() for host in self.hosts.values()):
            raise Broken(f"I2: {name_of(state)} is set while a container runs")
        request = self._request()
        if state.type is StateType.COMPLETED and (request, SUCCEEDED) not in self.ends:
            raise Broken("I2: Completed is said of what did not succeed")

    def what_is_wrong(self, gone: str | None) -> str | None:
        hosts = [host for name, host in self.hosts.items() if name != gone]
        state = self.server.now.type
        boxes = [box for host in hosts for box in host.boxes.values()]
        is_paused = state is StateType.PAUSED
        if self.server.exists and not (state in FINAL or is_paused):
            return f"I3: nobody brings it to its end: {state.value.title()}"
        if any(box.state is Container.RUNNING for box in boxes) or (boxes and not is_paused):
            return "I4: a container is left"
        if self.server.exists and self.word is not None and state is not self.word:
            return f"I4: {self.word.value.title()} was said, and it is {state.value.title()}"
        if self.replaced is not None:
            return f"I4: {name_of(self.replaced)} was said, and is not set again"
        if is_paused or not self.server.exists:
            return None
        return self._what_is_untold(hosts)

    def _what_is_untold(self, hosts: list[Host]) -> str | None:
        for record in [record for host in hosts for record in host.records]:
            if record.phase is not Phase.TOLD:
                return f"I6: attempt {record.number} is not told"
            if record.outcome != TAKEN and record.number not in self.server.reports:
                return f"I6: attempt {record.number} has no report"
        if not self.lost_disks and self.server.started - self.server.finished.keys():
            return "I6: an attempt has no finished event"
        return None


def name_of(state: State) -> str:
    """Of its type, as people know it."""
    return state.type.value.title()
