"""A host: its disk, its engine with containers, and the worker that lives on it for a while."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from flows.runtime.cancellation import Reason
from flows.runtime.lifecycle import Claim, Container, Phase, RecordView

T = TypeVar("T")
Process = Iterator[None]
# How an attempt ended, as its record says.
SUCCEEDED, FAILED, CANCELED, LOST, TAKEN = "succeeded", "failed", "canceled", "lost", "taken"
ABANDONED = "abandoned"
# Of outcomes that are retried, and how many attempts may follow.
RETRIES = {LOST: 2}


class Away(Exception):
    """The server or the engine does not answer, or its answer is lost."""


@dataclass(slots=True)
class Box:
    """A container; `ended` says how it did: by itself with an outcome, or by whom."""

    attempt: int
    state: Container
    request: UUID | None = None
    ended: str | None = None


@dataclass(slots=True)
class Record:
    """An attempt as the host's disk has it."""

    number: int
    answers: UUID | None
    fence: int
    phase: Phase = Phase.PREPARED
    outcome: str | None = None


@dataclass(slots=True)
class Carried:
    """A claimed run in a worker's memory. Nothing said of it counts before `is_labelled`."""

    claim: Claim
    is_labelled: bool = False
    reason: Reason | None = None


@dataclass(slots=True)
class Worker:
    """A worker's process: all of it is lost with it. `memory` is a queue as it was once answered;
    `unchanged` counts heartbeats of others that were all the same."""

    host: "Host"
    carried: Carried | None = None
    carrier: Process | None = None
    jobs: dict[str, Process] = field(default_factory=dict)
    held_until: int = -1
    is_told_to_end: bool = False
    remembers: bool = False
    heard: dict[str, tuple[int, int]] = field(default_factory=dict)

    def holds_lease(self) -> bool:
        return self.host.clock() < self.held_until


@dataclass(slots=True)
class Host:
    """`records` are its attempts, oldest first; `boxes` its engine's containers by attempt."""

    name: str
    clock: Callable[[], int]
    records: list[Record] = field(default_factory=list)
    boxes: dict[int, Box] = field(default_factory=dict)
    worker: Worker | None = None
    has_power: bool = True
    is_served: bool = True
    has_engine: bool = True
    loses_answer: bool = False
    down_since: int = 0

    def __post_init__(self) -> None:
        self.worker = Worker(self)

    def server(self, do: Callable[[], T]) -> T:
        """What the server answers to a request of this host."""
        if not (self.is_served and self.has_power):
            raise Away
        return self._answered(do())

    def engine(self, do: Callable[[], T]) -> T:
        """What the engine answers."""
        if not (self.has_engine and self.has_power):
            raise Away
        return self._answered(do())

    def _answered(self, answer: T) -> T:
        if self.loses_answer:
            self.loses_answer = False
            raise Away
        return answer

    def last(self) -> Record | None:
        return self.records[-1] if self.records else None

    def record_view(self) -> RecordView:
        """As the attempt store tells it."""
        record = self.last()
        if record is None:
            return RecordView()
        return RecordView(
            record.phase,
            record.answers,
            self.is_retried(record),
            record.fence,
            is_abandoned=record.outcome == ABANDONED,
        )

    def is_retried(self, record: Record) -> bool:
        if record.outcome == TAKEN:
            return True
        same = [each for each in self.records if each.answers == record.answers]
        like_it = sum(each.outcome == record.outcome for each in same)
        return record.outcome is not None and like_it <= RETRIES.get(record.outcome, 0)

    def container(self) -> Container:
        """The state of the newest attempt's container, by the engine where it answers."""
        record = self.last()
        if not self.has_engine:
            return Container.UNKNOWN
        box = self.boxes.get(record.number) if record else next(iter(self.boxes.values()), None)
        return box.state if box else Container.ABSENT

    # What happens to it.

    def end(self, how: str) -> None:
        """Its running container ends by itself, or with the engine."""
        for box in self.running():
            box.state, box.ended = Container.STOPPED, how

    def running(self) -> list[Box]:
        return [box for box in self.boxes.values() if box.state is Container.RUNNING]

    def stop(self, number: int) -> None:
        """`docker stop`: of one that has ended, nothing."""
        box = self.boxes.get(number)
        if box and box.state is not Container.STOPPED:
            box.state, box.ended = Container.STOPPED, CANCELED

    def pause(self) -> None:
        for box in self.running():
            box.state = Container.PAUSED

    def start_worker(self) -> None:
        self.worker = Worker(self)

    def kill_worker(self) -> None:
        self.worker, self.down_since = None, self.clock()

    def lose_power(self) -> None:
        self.kill_worker()
        self.has_power = False
        for box in self.boxes.values():
            if box.state in (Container.RUNNING, Container.PAUSED):
                box.state, box.ended = Container.STOPPED, LOST
