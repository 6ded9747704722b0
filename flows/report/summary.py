"""How container tasks went over some days: what is counted, and how it reads. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from prefect.client.schemas.objects import FlowRun, StateType

from flows.outcome import OutcomeName
from flows.report.names import outcome_of_state
from flows.text import code, escape, one_line, table

_TOP = 10
_LEFT_OUT = "There were too many to read: causes, images, repositories and times are of the newest."


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` on, and before `until`."""

    since: datetime
    until: datetime

    @property
    def before(self) -> "Period":
        """The one of the same length before it."""
        return Period(self.since - (self.until - self.since), self.since)

    @property
    def days(self) -> int:
        return (self.until - self.since).days

    def __str__(self) -> str:
        return f"{self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True, slots=True)
class AttemptFacts:
    """One attempt, as its artifact `container-run-metadata` has it."""

    job_id: str
    number: int
    outcome: str
    cause: str
    image: str
    repository: str
    command: str
    seconds: float

    @classmethod
    def of(cls, facts: Mapping[str, str]) -> Self | None:
        """None for what is none of ours."""
        try:
            return cls(
                job_id=facts["jobId"],
                number=int(facts["attempt"]),
                outcome=facts["outcome"],
                cause=facts["failureClass"] or facts["outcome"],
                image=facts["image"],
                repository=facts["repository"],
                command=facts["commandSummary"],
                seconds=float(facts["durationSeconds"]),
            )
        except (LookupError, TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Unsuccessful:
    """A flow run that did not succeed."""

    run_id: str
    name: str
    outcome: OutcomeName
    message: str

    @classmethod
    def of(cls, run: FlowRun) -> Self:
        kind, name = run.state_type or StateType.FAILED, run.state_name or ""
        message = run.state.message if run.state else None
        return cls(str(run.id), run.name, outcome_of_state(kind, name), message or "")


@dataclass(frozen=True, slots=True)
class CauseCount:
    """Why runs did not succeed; `last` is the newest of them."""

    name: str
    outcome: OutcomeName
    runs: int
    last: Unsuccessful


@dataclass(frozen=True, slots=True)
class Summary:
    """How it went. The counts are of all runs; of the rest, the newest so many are read.
    `unsuccessful` and `attempts` are newest first."""

    period: Period
    outcomes: Mapping[OutcomeName, int]
    before: Mapping[OutcomeName, int]
    unsuccessful: Sequence[Unsuccessful] = ()
    attempts: Sequence[AttemptFacts] = ()
    left_out: bool = False

    @property
    def runs(self) -> int:
        return sum(self.outcomes.values())

    @property
    def last_attempts(self) -> Mapping[str, AttemptFacts]:
        return {each.job_id: each for each in sorted(self.attempts, key=lambda one: one.number)}

    @property
    def causes(self) -> list[CauseCount]:
        """The most frequent first."""
        last, found = self.last_attempts, dict[tuple[OutcomeName, str], list[Unsuccessful]]()
        for run in self.unsuccessful:
            attempt = last.get(run.run_id)
            is_its = attempt is not None and attempt.outcome == run.outcome
            cause = attempt.cause if attempt and is_its else str(run.outcome)
            found.setdefault((run.outcome, cause), []).append(run)
        causes = [CauseCount(name, of, len(runs), runs[0]) for (of, name), runs in found.items()]
        return sorted(causes, key=lambda each: -each.runs)

    @property
    def retried(self) -> list[AttemptFacts]:
        """The last attempts of runs that had more than one."""
        return [each for each in self.last_attempts.values() if each.number > 1]


def sentence(summary: Summary) -> str:
    """For a notification: what is most worth knowing, in a few lines."""
    if not summary.runs:
        return f"No container task ended from {summary.period}."
    counts = ", ".join(f"{number} {outcome}" for outcome, number in summary.outcomes.items())
    before = sum(summary.before.values())
    well = summary.before.get(OutcomeName.SUCCEEDED, 0)
    lines = [
        f"Container tasks from {summary.period}: {summary.runs}, of which {counts}.",
        f"The {summary.period.days} days before: {before}, of which {well} succeeded.",
    ]
    if causes := summary.causes[:_TOP]:
        names = ", ".join(f"{each.name} {each.runs}" for each in causes)
        lines.append(f"Causes: {names}.")
    return "\n".join(lines)


def payload(summary: Summary) -> dict[str, Any]:
    """Of the event `moonmind.task.summary`."""
    period = summary.period
    return {
        "since": period.since.isoformat(),
        "until": period.until.isoformat(),
        "runs": summary.runs,
        "outcomes": {str(name): number for name, number in summary.outcomes.items()},
        "outcomesBefore": {str(name): number for name, number in summary.before.items()},
        "causes": [
            {"outcome": str(each.outcome), "failureClass": each.name, "runs": each.runs}
            for each in summary.causes
        ],
        "retriedRuns": len(summary.retried),
        "text": sentence(summary),
    }


def markdown(summary: Summary) -> str:
    """The artifact `container-task-summary`."""
    last = list(summary.last_attempts.values())
    parts = [
        f"# {summary.runs} container tasks",
        f"From {summary.period}.",
        _outcomes(summary),
        *(["## Causes", _causes(summary.causes)] if summary.unsuccessful else []),
        *(_of_attempts(last) if last else []),
        *([_retries(summary.retried)] if summary.retried else []),
        *([_LEFT_OUT] if summary.left_out else []),
    ]
    return "\n\n".join(parts) + "\n"


def _of_attempts(last: Sequence[AttemptFacts]) -> list[str]:
    return [
        "## Images",
        _shares("Image", last, lambda each: each.image),
        "## Repositories",
        _shares("Repository", last, lambda each: each.repository),
        "## Longest",
        _longest(last),
    ]


def _outcomes(summary: Summary) -> str:
    names = [name for name in OutcomeName if summary.outcomes.get(name) or summary.before.get(name)]
    rows = [
        (str(name), str(summary.outcomes.get(name, 0)), str(summary.before.get(name, 0)))
        for name in names
    ]
    rows.append(("all", str(summary.runs), str(sum(summary.before.values()))))
    return table(("Outcome", "Runs", f"The {summary.period.days} days before"), rows)


def _causes(causes: Sequence[CauseCount]) -> str:
    rows = [
        (
            code(each.name),
            str(each.outcome),
            str(each.runs),
            escape(each.last.name),
            escape(one_line(each.last.message, 200)),
            _link(each.last.run_id),
        )
        for each in causes
    ]
    return table(("Cause", "Outcome", "Runs", "The last of them", "Why", ""), rows)


def _shares(what: str, attempts: Sequence[AttemptFacts], of: Callable[[AttemptFacts], str]) -> str:
    """Runs, and those that did not succeed, by what they have in common."""
    runs, bad, seconds = Counter[str](), Counter[str](), Counter[str]()
    for each in attempts:
        name = of(each)
        runs[name] += 1
        bad[name] += each.outcome != OutcomeName.SUCCEEDED
        seconds[name] += round(each.seconds)
    rows = [
        (code(name) if name else "none", str(number), str(bad[name]), _h_mm_ss(seconds[name]))
        for name, number in runs.most_common(_TOP)
    ]
    return table((what, "Runs", "Not succeeded", "Time"), rows)


def _longest(attempts: Iterable[AttemptFacts]) -> str:
    longest = sorted(attempts, key=lambda each: -each.seconds)[:5]
    rows = [
        (
            _h_mm_ss(each.seconds),
            escape(each.outcome),
            code(each.image),
            code(each.command),
            _link(each.job_id),
        )
        for each in longest
    ]
    return table(("Time", "Outcome", "Image", "Command", "Run"), rows)


def _retries(retried: Sequence[AttemptFacts]) -> str:
    well = sum(each.outcome == OutcomeName.SUCCEEDED for each in retried)
    return f"Runs with more than one attempt: {len(retried)}, of which {well} succeeded in the end."


def _link(run_id: str) -> str:
    # The first UI shows the text of a link as it stands in the Markdown.
    return f"[open](/runs/flow-run/{run_id})"


def _h_mm_ss(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
