"""Two hosts, a server, people and time, played move by move, and what must hold after each."""

from collections.abc import Callable, Iterable
from functools import partial

from prefect.client.schemas.objects import StateType

from flows.runtime.lifecycle import Container
from tests.lifecycle_model.decisions import Decisions
from tests.lifecycle_model.host import FAILED, LOST, SUCCEEDED, Host
from tests.lifecycle_model.judge import Broken, Judge
from tests.lifecycle_model.looking import Looking
from tests.lifecycle_model.server import FINAL, Server

JOBS = ("poll", "claim", "sweep", "take over")
Move = Callable[[], None]
_ROUNDS = 60


class World(Judge):
    """One flow run and all that acts on it. `play` makes a move; `settle` ends all faults."""

    def __init__(self, decide: Decisions) -> None:
        super().__init__(decide)
        self.time = 0
        self.server = Server(self.changed)
        self.hosts = {name: Host(name, lambda: self.time) for name in ("a", "b")}
        self.workers = {
            name: Looking(host, self.server, decide, self) for name, host in self.hosts.items()
        }
        self.moves = self._moves()

    def play(self, moves: Iterable[str]) -> None:
        """Make the moves that are possible, and hold the world to the invariants after each."""
        for move in moves:
            self.moves[move]()
            self.check_containers()

    # Moves.

    def _moves(self) -> dict[str, Move]:
        moves: dict[str, Move] = {"tick": self._tick, "late": self.server.mark_late}
        for name, host in self.hosts.items():
            here = {job: partial(self._advance, host, job) for job in JOBS} | self._faults(host)
            moves |= {f"{name} {what}": move for what, move in here.items()}
        return moves | {
            "cancel": self._cancel,
            "suspend": self._suspend,
            "resume": self._resume,
            "retry": self._retry,
            "delete": partial(setattr, self.server, "exists", False),
            "mark completed": partial(self._mark, StateType.COMPLETED),
            "mark failed": partial(self._mark, StateType.FAILED),
            "mark cancelled": partial(self._mark, StateType.CANCELLED),
        }

    def _faults(self, host: Host) -> dict[str, Move]:
        return {
            "carry": partial(self._carry, host),
            "exits": partial(self._exit, host, SUCCEEDED),
            "fails": partial(self._exit, host, FAILED),
            "engine restarts": partial(self._exit, host, LOST),
            "container removed": host.boxes.clear,
            "worker killed": partial(self._kill, host),
            "worker told to end": partial(self._tell_to_end, host),
            "power cut": partial(self._cut_power, host),
            "power back": partial(self._power, host),
            "disk lost": partial(self._lose_disk, host),
            "cut from server": partial(self._cut, host, "is_served"),
            "server back": partial(setattr, host, "is_served", True),
            "cut from engine": partial(self._cut, host, "has_engine"),
            "engine back": partial(setattr, host, "has_engine", True),
            "answer lost": partial(setattr, host, "loses_answer", True),
        }

    def _advance(self, host: Host, job: str) -> None:
        worker = host.worker
        if worker is None:
            return
        if job not in worker.jobs:
            begin = getattr(self.workers[host.name], job.replace(" ", "_"))
            worker.jobs[job] = begin(worker)
        if next(worker.jobs[job], self) is self:
            del worker.jobs[job]

    def _carry(self, host: Host) -> None:
        worker = host.worker
        if worker and worker.carrier and next(worker.carrier, self) is self:
            worker.carrier = worker.carried = None
            if worker.is_told_to_end:
                host.start_worker()

    def _exit(self, host: Host, how: str) -> None:
        self.ends += [(box.request, how) for box in host.running()]
        host.end(how)
        if how is LOST:
            for box in host.boxes.values():
                if box.state is Container.PAUSED:
                    box.state, box.ended = Container.STOPPED, LOST

    def _kill(self, host: Host) -> None:
        if host.worker:
            host.kill_worker()

    def _cut_power(self, host: Host) -> None:
        if host.has_power:
            host.lose_power()

    def _tell_to_end(self, host: Host) -> None:
        worker = host.worker
        if worker is None:
            return
        if worker.carried:
            worker.is_told_to_end = True
        else:
            host.start_worker()

    def _power(self, host: Host) -> None:
        if not host.has_power:
            host.has_power = True
            host.start_worker()

    def _lose_disk(self, host: Host) -> None:
        if host.worker is None:
            self.lost_disks |= bool(host.records)
            host.records.clear()

    def _cut(self, host: Host, what: str) -> None:
        if host.is_served and host.has_engine:
            setattr(host, what, False)

    def _tick(self) -> None:
        self.time += 1
        for name, host in self.hosts.items():
            if host.worker is None and host.has_power and self.time > host.down_since:
                host.start_worker()
            if host.worker is not None:
                # Of a host that has neither for so long, nobody can stop a container: a limit.
                host.has_engine |= not host.worker.holds_lease()
                self.workers[name].guard(host.worker)

    # People.

    def _cancel(self) -> None:
        before = self.server.now
        self.server.ask(StateType.CANCELLING)
        if self.server.now is not before:
            self.word = StateType.CANCELLED

    def _suspend(self) -> None:
        before = self.server.now
        self.server.ask(StateType.PAUSED, "Suspended")
        if self.server.now is not before:
            self.word = self.replaced = None

    def _resume(self) -> None:
        if self.server.now.type is StateType.PAUSED:
            self.server.ask(StateType.SCHEDULED, "Resuming")

    def _retry(self) -> None:
        if self.server.now.type in FINAL:
            self.word = self.replaced = None
            self.server.ask(StateType.SCHEDULED, "AwaitingRetry")

    def _mark(self, kind: StateType) -> None:
        self.word, self.replaced = kind, None
        self.server.mark(kind)

    # What must be so once all faults are over.

    def settle(self, *, gone: str | None = None) -> None:
        """End all faults, but for a host that stays `gone`; within a bound, all must be well."""
        for name, host in self.hosts.items():
            host.is_served = host.has_engine = True
            host.loses_answer = False
            if name == gone:
                if host.has_power:
                    host.lose_power()
            else:
                self._power(host)
        for _ in range(_ROUNDS):
            if self.what_is_wrong(gone) is None:
                return
            self._round()
        if not self.server.exists:
            return
        raise Broken(self.what_is_wrong(gone) or "I3: nothing is well")

    def _round(self) -> None:
        self.play(["tick"])
        for name, host in self.hosts.items():
            for job in JOBS:
                for _ in range(40):
                    self.play([f"{name} {job}"])
                    if host.worker is None or job not in host.worker.jobs:
                        break
            for _ in range(40):
                self.play([f"{name} carry"])
            if self.time % 2:
                self.play([f"{name} exits"])
