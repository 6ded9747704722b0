"""What an attempt left, as its outcome and its tables need it: plain frozen values, bounded."""

from dataclasses import dataclass
from typing import Literal

# Of each table. What is noted of a run is written anew several times, and shown to people.
MAX_ROWS = 100
MAX_NAMED = 20
CaseResult = Literal["failed", "error", "skipped", "passed"]
Reason = Literal[
    "symlink",
    "device",
    "fifo",
    "socket",
    "unreadable",
    "too-large",
    "too-many",
    "too-long",
    "stale",
    "not-utf-8",
    "not-kept",
]
# Each completes "it is …".
REASONS: dict[Reason, str] = {
    "symlink": "a link, and links are not followed: have the command leave the file itself",
    "device": "a device, not a file",
    "fifo": "a pipe, not a file",
    "socket": "a socket, not a file",
    "unreadable": "shut to the runner: see its permissions, or how deep its folder is",
    "too-large": "larger than what is left of the 20 GiB that all outputs may have together",
    "too-many": "beyond the 10,000 files, or 4 MiB of paths, that all outputs may have together",
    "too-long": "under a path of more than 4,096 bytes",
    "stale": "there since before the command began: have the command write it, or copy it",
    "not-utf-8": "under a name that is no UTF-8",
    "not-kept": "not to be put among the artifacts: see the disk of the host",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One test of a report, its texts on one line each."""

    suite: str
    name: str
    result: CaseResult
    seconds: float | None = None
    message: str = ""
    flaky: bool = False

    @property
    def short_name(self) -> str:
        """`FooTest.test_bar`, of a suite `org.example.FooTest`."""
        suite = self.suite
        if "/" not in suite and " " not in suite:
            suite = suite.rpartition(".")[2]
        if not suite or self.name.startswith(suite):
            return self.name or "(unnamed)"
        return f"{suite}.{self.name}" if self.name else suite


@dataclass(frozen=True, slots=True)
class UnreadableReport:
    """A test report that does not count, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReportedTests:
    """What the test reports say together. `rows` has failures first, and not all of many.

    A test that passed when it was run again has passed, and counts as `flaky` too.
    """

    passed: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    flaky: int = 0
    files: int = 0
    unreadable_files: int = 0
    unreadable: tuple[UnreadableReport, ...] = ()
    rows: tuple[Case, ...] = ()

    @property
    def total(self) -> int:
        return self.passed + self.failed + self.errors + self.skipped

    @property
    def not_passed(self) -> int:
        return self.failed + self.errors

    @property
    def failures(self) -> tuple[Case, ...]:
        return tuple(row for row in self.rows if row.result in ("failed", "error"))


@dataclass(frozen=True, slots=True)
class OutputResult:
    """What became of one declared output."""

    path: str
    required: bool
    type: Literal["file", "junit"]
    collected: int = 0
    size_bytes: int = 0
    rejected: int = 0

    @property
    def missing(self) -> bool:
        return self.collected == 0


@dataclass(frozen=True, slots=True)
class OutputRow:
    """One file of an output, or that there is none; `path` is below `artifacts/` if collected,
    and where the task left it if not, and cut where it is long."""

    output: str
    result: Literal["collected", "missing", "rejected"]
    path: str = ""
    reason: Reason | None = None
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """All that was found when the container had stopped; `outputs` in the order of the spec.

    `rows` has what is missing and rejected first, and not all of many.
    """

    outputs: tuple[OutputResult, ...] = ()
    rows: tuple[OutputRow, ...] = ()
    tests: ReportedTests | None = None
    error: str | None = None
