"""`container-task doctor`: choose the checks, run them, print their findings."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace

from rich.table import Table
from rich.text import Text

from flows.cli.console import Console, ExitStatus
from flows.cli.doctor.checkup import Check, Finding, Level, host_checks, run_checks
from flows.cli.doctor.engine import EngineChecks
from flows.cli.doctor.server import server_checks
from flows.text import shown_lines

_COLOURS = {
    Level.OK: "green",
    Level.WARNING: "yellow",
    Level.FAULT: "bold red",
    Level.SKIPPED: "dim",
}


def examine(console: Console, parts: Sequence[str], deployment: str, quiet_seconds: float) -> int:
    """Look at all parts, or those named; tell what was found, and how to mend each fault."""
    checks = chosen(parts, deployment, quiet_seconds)
    with nullcontext() if console.as_json else console.spinner("Looking") as show:

        def tell(names: Sequence[str]) -> None:
            if show:
                show(f"Looking at {', '.join(names)}")

        found = asyncio.run(run_checks(checks, tell))
    findings = [each for _, each in found]
    counts = Counter(each.level for each in findings)
    if console.as_json:
        told = [{"name": each.name, "part": check.part, **asdict(each)} for check, each in found]
        console.document({"healthy": not counts[Level.FAULT], "findings": told})
    else:
        _print(console, findings)
        console.line(f"\n{_summary(counts)}\n{_closing_line(counts)}")
    return ExitStatus.FAILED if counts[Level.FAULT] else ExitStatus.SUCCEEDED


def chosen(parts: Sequence[str], deployment: str, quiet_seconds: float) -> list[Check]:
    """The checks of the parts that are asked for, and, silent, those of others that they need."""
    checks = [*host_checks(), *EngineChecks(quiet_seconds).checks(), *server_checks(deployment)]
    found: list[Check] = []
    needed: set[str] = set()
    # Each check stands after those that it needs.
    for check in reversed(checks):
        is_wanted = not parts or check.part in parts
        if is_wanted or check.name in needed:
            needed.update(check.needs)
            found.insert(0, replace(check, is_silent=not is_wanted))
    return found


def _print(console: Console, found: Sequence[Finding]) -> None:
    """A table on a terminal; into a pipe a finding a line, and what to do on the next."""
    if console.is_terminal:
        console.render(_grid(found))
        return
    width = max(len(each.name) for each in found)
    for each in found:
        console.line(f"{each.level:<10}{each.name:<{width}}  {shown_lines(each.says)}")
        if each.mend:
            console.line(f"{'':10}{'':{width}}  → {shown_lines(each.mend)}")


def _grid(found: Sequence[Finding]) -> Table:
    """Nothing is wider than the terminal, and each column keeps to itself."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(max_width=16)
    grid.add_column(overflow="fold")
    for each in found:
        says = Text(shown_lines(each.says))
        if each.mend:
            says.append(f"\n→ {shown_lines(each.mend)}", "italic")
        grid.add_row(Text(each.level, _COLOURS[each.level]), Text(each.name, "bold"), says)
    return grid


def _summary(counts: Mapping[Level, int]) -> str:
    told = [
        f"{counts[level] or 'no'} {level}{'' if counts[level] == 1 else 's'}"
        for level in (Level.FAULT, Level.WARNING)
    ]
    if counts[Level.SKIPPED]:
        told.append(f"{counts[Level.SKIPPED]} skipped")
    return f"{', '.join(told)}, {counts[Level.OK]} ok."


def _closing_line(counts: Mapping[Level, int]) -> str:
    if counts[Level.FAULT]:
        return "Mend the faults, from the top, and look again."
    if counts[Level.SKIPPED]:
        return "What was looked at can take work; see why the rest was skipped."
    if counts[Level.WARNING]:
        return "This can take work; mend the warnings when there is time."
    return "This can take work."
