"""Steps of the process that claims a run, and begins it or gives it back."""

from prefect.client.schemas.objects import StateType

from flows.runtime.history import GIVEN_BACK
from flows.runtime.lifecycle import Claim
from tests.lifecycle_model.carrying import Carrying
from tests.lifecycle_model.host import Away, Carried, Process, Worker
from tests.lifecycle_model.requests import Steps
from tests.lifecycle_model.server import Status


class Claiming(Carrying):
    """From a run that waits to the state Running."""

    def claim(self, worker: Worker) -> Process:
        """Claim the run, where it waits and may be claimed from here."""
        if worker.carried or not self.host.has_engine:
            return
        yield
        if not (yield from self.is_seen_to_wait(worker)):
            return
        yield
        if not self.may_claim(worker):
            return
        carried = worker.carried = Carried(Claim(self.host.name))
        worker.remembers = False
        if (yield from self.propose_claim()):
            worker.carrier = self.carry(worker, carried)
        else:
            worker.carried = None

    def is_seen_to_wait(self, worker: Worker) -> Steps[bool]:
        """Whether it waits, and for this host, too; by the server's answer or by a memory of it."""
        server, decide = self.server, self.decide
        if worker.remembers and not decide.asks_before_claim:
            return True
        try:
            states, label = self.host.server(lambda: (list(server.states), server.host))
        except Away:
            return False
        waits = server.exists and decide.is_claimable(states, label, self.host.name)
        worker.remembers = waits
        if not decide.asks_before_claim:
            # It may wait for room first.
            yield
            yield
        return waits

    def may_claim(self, worker: Worker) -> bool:
        has_lease = not self.decide.has_lease or worker.holds_lease()
        return has_lease and not worker.is_told_to_end

    def propose_claim(self) -> Steps[bool]:
        """Propose Pending until there is an answer; whether the run is this host's."""
        server = self.server
        pending = server.state(
            StateType.PENDING, message=self.word, transition=self.decide.claim_id()
        )
        while True:
            try:
                status, now = self.host.server(lambda: server.propose(pending, self.host.name))
                break
            except Away:
                yield
        is_again = now.type is StateType.PENDING and now.message == self.word
        return server.exists and (status is Status.ACCEPT or is_again)

    def carry(self, worker: Worker, carried: Carried) -> Process:
        """Begin what was claimed, or give it back."""
        host, server, decide = self.host, self.server, self.decide
        states, label, fence = yield from self.ask(
            lambda: (list(server.states), server.host, server.fence)
        )
        if states[-1].message != self.word:
            return
        if decide.looks_back and not decide.is_claimable(states[:-1], label, host.name):
            yield from self.put_back(states[-1], states[-2])
            return
        if worker.is_told_to_end:
            yield from self.give_back(states[-1], GIVEN_BACK)
            return
        carried.claim = Claim(host.name, fence)
        yield from self.hold(worker)
        if not (yield from self.ask(self.write_label)):
            return
        carried.is_labelled = True
        yield from self.hold(worker)
        running = server.state(StateType.RUNNING, message=self.word, transition=decide.running_id())
        _, now = yield from self.ask(lambda: server.propose(running, host.name))
        if now is not running:
            return
        while "sweep" in worker.jobs:
            # The job's lock.
            yield
        yield from self.run(worker, carried)

    def write_label(self) -> bool:
        """Name this host on the run, if the claim still is its newest state."""
        is_ours = self.server.now.message == self.word
        if is_ours:
            self.server.host = self.host.name
        return is_ours
