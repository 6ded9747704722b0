"""Steps of a worker's services: heartbeats and reconciling, the sweep, and taking over."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from prefect.client.schemas.objects import State, StateType

from flows.runtime.lifecycle import Claim, Phase, RunView, Step
from flows.runtime.ownership import TakeOver
from tests.lifecycle_model.carrying import WORDS
from tests.lifecycle_model.claiming import Claiming
from tests.lifecycle_model.host import ABANDONED, Away, Process, Worker
from tests.lifecycle_model.requests import Steps
from tests.lifecycle_model.server import FINAL

# In ticks: after so long a silence others take over, and so long a worker acts without an answer.
PATIENCE = 8
LEASE = 5


class Looking(Claiming):
    """All that a host's worker does."""

    def poll(self, worker: Worker) -> Process:
        """Send a heartbeat, then look at what is carried; only then is the lease longer."""
        host, server, decide = self.host, self.server, self.decide
        sent_at, carried = host.clock(), worker.carried
        is_ours = carried is not None and carried.is_labelled

        def beat() -> None:
            server.heartbeats[host.name] = server.heartbeats.get(host.name, 0) + 1

        yield
        try:
            host.server(beat)
            yield
            run = host.server(self.view)
        except Away:
            return
        if carried is not None and is_ours and carried.reason is None:
            reason = decide.why_stop(run, carried.claim)
            self.look(host, run, carried.claim)
            record = host.last()
            is_deaf = record is not None and record.phase is Phase.ENDED
            if reason and (decide.hears_after_end or not is_deaf):
                carried.reason = reason
        worker.held_until = max(worker.held_until, sent_at + LEASE)

    def guard(self, worker: Worker) -> None:
        """Freeze what nobody may let run any more. It is asked as time passes, not in turn."""
        host = self.host
        if self.decide.has_lease and host.has_engine and not worker.holds_lease():
            host.pause()

    # The sweep.

    def sweep(self, worker: Worker) -> Process:
        """Do what is next to a run that no process carries, until there is nothing."""
        host, decide = self.host, self.decide
        claim = Claim(host.name)
        for _ in range(8):
            yield
            yield from self.hold(worker)
            try:
                run = host.server(lambda: self.lost_view(worker))
            except Away:
                return
            if worker.carried:
                return
            step = decide.next_step(run, host.record_view(), host.container(), claim)
            if step in (Step.NOTHING, Step.WAIT):
                if run is None or run.type in FINAL:
                    yield from self.discard(run)
                return
            yield
            if worker.carried or (decide.has_lease and not worker.holds_lease()):
                return
            try:
                yield from self.do(worker, step)
            except Away:
                return

    def discard(self, run: RunView | None) -> Steps[None]:
        """Remove what the engine has of a run that is over, whatever the store knows of it."""
        record = self.host.record_view()
        if record.phase in (Phase.NONE, Phase.TOLD) and (run is not None or record.is_past):
            yield
            with suppress(Away):
                self.host.engine(self.host.boxes.clear)

    def lost_view(self, worker: Worker) -> RunView | None:
        """The run, and whether its claim is one of this host that no process here knows."""
        server, host = self.server, self.host
        run = self.view()
        if run is None or run.type is not StateType.PENDING:
            return run
        if server.now.message != self.word:
            return run
        return replace(run, host=host.name, is_lost=worker.carried is None)

    def do(self, worker: Worker, step: Step) -> Steps[None]:
        """One step, after which the sweep looks anew."""
        host = self.host
        match step:
            case Step.REMOVE | Step.SET_ASIDE:
                yield from self.let_go()
            case Step.PAUSE:
                host.engine(host.pause)
            case Step.END_CANCELED:
                yield from self.end_canceled()
            case Step.END_ABANDONED:
                yield from self.end_canceled()
                host.records[-1].outcome = ABANDONED
            case Step.TELL:
                yield from self.tell()
            case _:
                host.server(lambda: self.set_state(worker, step))

    def set_state(self, worker: Worker, step: Step) -> None:
        """A look and, where it says the same as the last one, the state."""
        host, server, decide = self.host, self.server, self.decide
        claim = Claim(host.name)
        run = self.lost_view(worker)
        if worker.carried or run is None:
            return
        if decide.next_step(run, host.record_view(), host.container(), claim) is not step:
            return
        if step is Step.SET_AGAIN:
            self.set_again(run.replaced)
            return
        if step is Step.RESTART:
            for kind, message in decide.restarts():
                server.propose(server.state(kind, message=message), host.name)
            return
        self.end_those_of_others()
        record = host.last()
        kind = {
            Step.SET_CANCELLED: StateType.CANCELLED,
            Step.SET_CRASHED: StateType.CRASHED,
        }.get(step) or WORDS[(record and record.outcome) or ABANDONED]
        is_pending = server.now.type is StateType.PENDING
        transition = None if is_pending else decide.claim_id()
        server.propose(server.state(kind, transition=transition), host.name)

    # Taking over.

    def take_over(self, worker: Worker) -> Process:
        """Put the run of a silent host back into its queue."""
        host, server, decide = self.host, self.server, self.decide
        yield
        try:
            heard, name, fence, seen = host.server(
                lambda: (dict(server.heartbeats), self.owner(), server.fence, server.now)
            )
            if name is None or name == host.name or not self.is_silent(worker, name, heard):
                return
            if decide.looks_twice:
                yield from self.act(worker, lambda: setattr(server, "fence", fence + 1))
                yield
                if host.server(lambda: server.heartbeats.get(name)) != heard.get(name):
                    return
            yield from self.act(worker, lambda: self.put_elsewhere(seen))
        except Away:
            return

    def act(self, worker: Worker, do: Callable[[], None]) -> Steps[None]:
        """Change what the server has, if nobody else may do it by now."""
        yield
        yield from self.hold(worker)
        self.host.server(do)

    def put_elsewhere(self, seen: State) -> None:
        """The state of a run that was taken over, if it still is as it was `seen`."""
        server, decide, name = self.server, self.decide, self.host.name
        run = self.view()
        if run is None or server.now is not seen:
            return
        self.end_those_of_others()
        match decide.take_over(run):
            case TakeOver.START_ELSEWHERE:
                if not decide.looks_twice:
                    server.host = None
                for kind, message in decide.restarts_elsewhere():
                    server.propose(server.state(kind, message=message), name)
            case TakeOver.SET_AGAIN:
                self.set_again(run.replaced)
            case TakeOver.SET_CANCELLED:
                server.propose(server.state(StateType.CANCELLED), name)
            case TakeOver.SET_CRASHED:
                server.propose(server.state(StateType.CRASHED), name)

    def set_again(self, state: State | None) -> None:
        if state is not None:
            again = self.server.state(state.type, state.name, state.message or "")
            self.server.propose(again, self.host.name)

    def owner(self) -> str | None:
        """The host whose silence keeps the run."""
        server, now = self.server, self.server.now
        if not server.exists:
            return None
        if now.type is StateType.PENDING and now.message:
            return now.message.removeprefix("Claimed by ")
        if now.type is StateType.SCHEDULED:
            return self.decide.home_of(server.states, server.host)
        return server.host

    def is_silent(self, worker: Worker, name: str, heard: dict[str, int]) -> bool:
        """Whether the same heartbeat was the last one for so long as this worker looks."""
        count, now = heard.get(name, 0), self.host.clock()
        known, since = worker.heard.get(name, (-1, now))
        if known != count:
            worker.heard[name] = (count, now)
            return False
        return now - since >= PATIENCE
