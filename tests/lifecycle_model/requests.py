"""What processes ask of the server and of their engine; each `yield` is where they may die."""

from collections.abc import Callable, Generator
from typing import Protocol, TypeVar

from prefect.client.schemas.objects import State, StateType

from flows.runtime.lifecycle import Claim, RunView
from tests.lifecycle_model.decisions import Decisions
from tests.lifecycle_model.host import Away, Box, Host, Worker
from tests.lifecycle_model.server import Server

T = TypeVar("T")
Steps = Generator[None, None, T]


class Judge(Protocol):
    """Who is told what the processes do."""

    def started(self, host: Host, box: Box) -> None: ...

    def looked(self, host: Host, run: RunView | None, claim: Claim) -> None: ...


class Requests:
    """What the processes of one host ask of the server and of its engine. A judge hears of each
    container that is `started`, and of each `look` at a run that is carried."""

    def __init__(self, host: Host, server: Server, decide: Decisions, judge: "Judge") -> None:
        self.host = host
        self.server = server
        self.decide = decide
        self.word = f"Claimed by {host.name}"
        self.started = judge.started
        self.look = judge.looked

    def view(self) -> RunView | None:
        """The run as the server has it."""
        server, states = self.server, self.server.states
        if not server.exists:
            return None
        return RunView(
            server.now.type,
            server.host,
            server.fence,
            self.decide.request_of(states, self.host.record_view()),
            self.decide.has_starts_left(states),
            replaced=self.decide.replaced(states),
        )

    # Requests, which are repeated until they are answered.

    def ask(self, do: Callable[[], T]) -> Steps[T]:
        while True:
            yield
            try:
                return self.host.server(do)
            except Away:
                continue

    def order(self, do: Callable[[], T]) -> Steps[T]:
        """Of the engine."""
        while True:
            yield
            try:
                return self.host.engine(do)
            except Away:
                continue

    def hold(self, worker: Worker) -> Steps[None]:
        """Wait until nobody else may act for the run."""
        while self.decide.has_lease and not worker.holds_lease():
            yield

    def put_back(self, ours: State, state: State) -> Steps[None]:
        """Set again what `ours` replaced, unless somebody was faster."""
        again = self.server.state(state.type, state.name, state.message or "")

        def set_again() -> None:
            if self.server.now is ours:
                self.server.propose(again, self.host.name)

        yield from self.ask(set_again)

    def give_back(self, ours: State, message: str) -> Steps[None]:
        """Put the run back into its queue, to be gone on with."""
        scheduled = self.server.state(StateType.SCHEDULED, "AwaitingRetry", message)

        def back() -> None:
            if self.server.now is ours:
                self.server.propose(scheduled, self.host.name)

        yield from self.ask(back)
