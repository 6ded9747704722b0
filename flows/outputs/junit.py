"""Read one test report in JUnit's XML, as pytest, Surefire, jest-junit, GoogleTest, CTest, .NET
and gotestsum write it.

The report is a stranger's: it is read in pieces and never held, what it nests, names and says in
one piece is bounded, and document types, entities and what lies outside the file are refused.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from flows.results import Case, CaseResult
from flows.text import one_line

# Between chunks, for the other runs of this process: their threads wait while one parses.
_PAUSE_SECONDS = 0.0005
# What a parser can hand out only as a whole: a tag with its attributes, or a comment.
_PIECE_BYTES = 1024**2
_MAX_DEPTH = 100
_MAX_NAMES = 1_000
# Of a name or a message, before what is secret is taken out of it and it is cut to be shown.
TEXT_LENGTH = 4096
_FAILING: dict[str, CaseResult] = {"failure": "failed", "error": "error"}
_NOT_RUN = ("notrun", "disabled", "suppressed", "skipped")


class ReportUnreadable(Exception):
    """The report does not count; `str()` says why, for a person."""


@dataclass(slots=True)
class Budget:
    """What all reports of a run together may still cost; `until` is by `time.monotonic`."""

    bytes_left: int
    elements_left: int
    until: float = math.inf

    def require_time(self) -> None:
        """Raise `ReportUnreadable` where there is none left."""
        if time.monotonic() > self.until:
            raise ReportUnreadable("the reports take too long to read together")


def read_report(file: BinaryIO, budget: Budget, take: Callable[[Case], None]) -> None:
    """Hand every test to `take`, its texts cut at `TEXT_LENGTH`. Raises `ReportUnreadable`."""
    target = _Target(budget, take)
    try:
        parser = DefusedXMLParser(target=target, forbid_dtd=True)
        silent_bytes, heard = 0, 0
        while chunk := file.read(64 * 1024):
            budget.bytes_left -= len(chunk)
            if budget.bytes_left < 0:
                raise ReportUnreadable("the reports are larger together than what is read of them")
            parser.feed(chunk)
            time.sleep(_PAUSE_SECONDS)
            budget.require_time()
            silent_bytes = silent_bytes + len(chunk) if heard == target.heard else 0
            heard = target.heard
            if silent_bytes >= _PIECE_BYTES:
                raise ReportUnreadable("it has a tag or a comment of more than 1 MiB")
        parser.close()
    except ParseError as error:
        raise ReportUnreadable(f"it is not well-formed XML ({error})") from None
    except DefusedXmlException:
        raise ReportUnreadable("it has a document type or entities, which are refused") from None
    except (LookupError, ValueError, OSError) as error:
        # An encoding that nobody knows, for one.
        raise ReportUnreadable(f"it cannot be read ({one_line(str(error), 100)})") from None


@dataclass(slots=True)
class _Open:
    """A test whose end is still to come, with that of the element at `depth`."""

    depth: int
    suite: str
    name: str
    seconds: float | None
    result: CaseResult = "passed"
    message: str = ""
    flaky: bool = False

    def closed(self) -> Case:
        flaky = self.flaky and self.result == "passed"
        return Case(self.suite, self.name, self.result, self.seconds, self.message, flaky)


class _Target:
    """What the parser tells; builds nothing."""

    def __init__(self, budget: Budget, take: Callable[[Case], None]) -> None:
        self.heard = 0
        self._budget = budget
        self._take = take
        self._path: list[str] = []
        self._suites: list[str] = []
        self._names: set[str] = set()
        self._case: _Open | None = None
        # Where text belongs to the message of the case.
        self._speaks_at = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self.heard += 1
        self._check(tag, attributes)
        name = tag.rpartition("}")[2]
        parent = self._path[-1] if self._path else ""
        self._path.append(name)
        if not parent and name not in ("testsuites", "testsuite"):
            raise ReportUnreadable(
                f"it begins with <{one_line(name, 40)}>, not with <testsuites> or <testsuite>"
            )
        if name == "testsuite":
            self._suites.append(attributes.get("name", "")[:TEXT_LENGTH])
        elif name == "testcase" and self._case is None:
            self._case = self._opened(attributes)
        elif parent == "testcase" and self._case is not None:
            self._says(self._case, name, attributes)
        elif parent == "testsuite" and name in _FAILING:
            # Of a suite that failed before or after its tests.
            self._case = _Open(len(self._path), self._suite, "", None)
            self._says(self._case, name, attributes)

    def end(self, tag: str) -> None:
        self.heard += 1
        depth, name = len(self._path), self._path.pop()
        if self._speaks_at == depth:
            self._speaks_at = 0
        if name == "testsuite":
            self._suites.pop()
        if self._case is not None and self._case.depth == depth:
            case, self._case = self._case, None
            self._take(case.closed())

    def data(self, text: str) -> None:
        self.heard += 1
        if self._speaks_at and self._case is not None and len(self._case.message) < TEXT_LENGTH:
            self._case.message = (self._case.message + text).lstrip()[:TEXT_LENGTH]

    def close(self) -> None:
        """Nothing was built."""

    @property
    def _suite(self) -> str:
        return next(filter(None, reversed(self._suites)), "")

    def _opened(self, attributes: Mapping[str, str]) -> _Open:
        case = _Open(
            len(self._path),
            (attributes.get("classname") or self._suite)[:TEXT_LENGTH],
            attributes.get("name", "")[:TEXT_LENGTH],
            _seconds(attributes.get("time", "")),
        )
        if attributes.get("status") in _NOT_RUN or attributes.get("result") in _NOT_RUN:
            case.result = "skipped"
        return case

    def _says(self, case: _Open, name: str, attributes: Mapping[str, str]) -> None:
        """Take in what an element directly below the test tells of it."""
        if name in ("flakyFailure", "flakyError", "rerun"):
            case.flaky = True
            return
        # The first failure says what it was.
        if name in _FAILING and case.result not in ("failed", "error"):
            case.result = _FAILING[name]
        elif name == "skipped" and case.result == "passed":
            case.result = "skipped"
        else:
            return
        case.message = attributes.get("message", "").strip()[:TEXT_LENGTH]
        if not case.message:
            self._speaks_at = len(self._path)

    def _check(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._budget.elements_left -= 1
        if self._budget.elements_left < 0:
            raise ReportUnreadable("the reports have more elements together than are read of them")
        if len(self._path) == _MAX_DEPTH:
            raise ReportUnreadable(f"it nests its elements more than {_MAX_DEPTH} deep")
        # The parser remembers each, for ever.
        self._names.add(tag)
        self._names.update(attributes)
        if len(self._names) > _MAX_NAMES:
            raise ReportUnreadable(
                f"it has more than {_MAX_NAMES} kinds of elements and attributes"
            )


def _seconds(text: str) -> float | None:
    """Of an attribute such as `1,234.5`."""
    try:
        seconds = float(text[:40].replace(",", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and 0 <= seconds < 1e9 else None
