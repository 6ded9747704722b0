"""What one stage of a run hands to the next: plain frozen values, nothing live."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from flows.outcome import OUTCOMES, Outcome, OutcomeName, StoppedBy
from flows.payload.policy import Policy
from flows.spec import ContainerSpec
from flows.workspace.folder import Workspace
from flows.workspace.logs import LogFacts

# Of a stored attempt; a greater one is of a later version, which this one cannot read.
RECORD_VERSION = 1
_LONGEST_BACKOFF_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RetryRules:
    """How many further attempts each cause of failure gets."""

    infrastructure: int
    image: int
    exit_codes: Mapping[int, int]

    def allowed_after(self, outcome: Outcome) -> int:
        """How many attempts that ended like this one may be followed by another."""
        match OUTCOMES[outcome.name].retry:
            case "infrastructure":
                return self.infrastructure
            case "image":
                return self.image
            case "exitCodes":
                return self.exit_codes.get(outcome.exit_code or 0, 0)
            case None:
                return 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What runs, where, and within which rules. `withheld` are the payload's variables that repeat
    a secret; `shown_command` and `shown_entrypoint` are masked, None where nothing is. `ready_ns`
    is when the checkout was made, by the clock of its file system."""

    workspace: Workspace
    spec: ContainerSpec
    repository: str | None
    commit: str | None
    instructions: str | None
    retry: RetryRules
    prepare_seconds: float
    policy: Policy | None = None
    withheld: tuple[str, ...] = ()
    ready_ns: int | None = None
    shown_command: tuple[str, ...] | None = None
    shown_entrypoint: tuple[str, ...] | None = None

    @property
    def shown(self) -> ContainerSpec:
        """What runs, as it may be told of: no word of it has a secret. Not to be run."""
        return replace(
            self.spec,
            command=self.shown_command or self.spec.command,
            entrypoint=self.shown_entrypoint or self.spec.entrypoint,
        )

    @property
    def is_masked(self) -> bool:
        """Whether `shown` has other words than what runs."""
        return (self.shown_command or self.shown_entrypoint) is not None


@dataclass(frozen=True, slots=True)
class Executed:
    """How it ran; the times are those of the stage, in UTC, over every process that took part."""

    outcome: Outcome
    log: LogFacts
    started_at: datetime
    finished_at: datetime

    @property
    def duration_seconds(self) -> float:
        return round((self.finished_at - self.started_at).total_seconds(), 3)


@dataclass(frozen=True, slots=True)
class Upload:
    """Where an attempt's files are, or are to be; `error` is one sentence on why they are not."""

    address: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at the task: prepared, then executed, then published (its results are all told).

    `began` is noted right before the container is created, which may still run where there is no
    `executed`; `stopping` right before it is stopped. `upload` is None where files stay here.
    `answers` is the request that it was made for, see `flows.runtime.history.request_of`, None
    where nobody knows; `fence` how often the run had been taken over by another host; `taken`, that
    it was given up to one. Paused, it is so since `paused_at`, and was for `paused_seconds` before.
    """

    prepared: Prepared
    started_at: datetime
    began: bool = False
    stopping: StoppedBy | None = None
    executed: Executed | None = None
    published: bool = False
    upload: Upload | None = None
    answers: UUID | None = None
    fence: int = 0
    taken: bool = False
    paused_at: datetime | None = None
    paused_seconds: float = 0.0
    version: int = RECORD_VERSION

    @property
    def outcome(self) -> Outcome:
        """How it ended. Raises `ValueError` for one that has not."""
        if self.executed is None:
            raise ValueError(f"{self.prepared.spec.name} has not ended")
        return self.executed.outcome


def is_retried(attempts: tuple[Attempt, ...], rules: RetryRules) -> bool:
    """Whether the newest attempt is to be followed by another, each cause on its own account.

    A request has accounts of its own, and what another host took over is on none.
    """
    if not attempts or attempts[-1].taken:
        return bool(attempts)
    answers = attempts[-1].answers
    outcomes = [
        each.outcome
        for each in attempts
        if each.executed and each.answers == answers and not each.taken
    ]
    if not outcomes:
        return False
    newest = outcomes[-1]
    like_it = [each for each in outcomes if _cause(each) == _cause(newest)]
    return len(like_it) <= rules.allowed_after(newest)


def backoff_seconds(attempts: tuple[Attempt, ...]) -> float:
    """The pause before the next attempt."""
    failed = sum(each.answers == attempts[-1].answers for each in attempts)
    if attempts[-1].outcome.name is OutcomeName.INFRASTRUCTURE:
        return infrastructure_pause(failed)
    return min(_LONGEST_BACKOFF_SECONDS, 2.0 ** (failed - 1))


def infrastructure_pause(failed: int) -> float:
    """The pause after so many failures; an engine or a server that restarts needs some seconds."""
    return min(_LONGEST_BACKOFF_SECONDS, 5.0**failed)


def _cause(outcome: Outcome) -> tuple[OutcomeName, int | None]:
    exit_code = outcome.exit_code if outcome.name is OutcomeName.FAILED else None
    return outcome.name, exit_code
