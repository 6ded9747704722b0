"""`container-task doctor`: the checks chosen, carried out at a time, and what they found."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from rich.table import Table
from rich.text import Text

from flows.cli.console import Console, ExitStatus
from flows.cli.doctor.blocks import block_checks
from flows.cli.doctor.checkup import Check, Finding, Level, carry_out
from flows.cli.doctor.engine import EngineChecks
from flows.cli.doctor.host import host_checks
from flows.cli.doctor.server import PrefectChecks
from flows.text import shown_lines

_COLOURS = {
    Level.OK: "green",
    Level.WARNING: "yellow",
    Level.FAULT: "bold red",
    Level.SKIPPED: "dim",
}


@dataclass(frozen=True, slots=True)
class Examination:
    """What is to be looked at; all parts where none is named."""

    only: tuple[str, ...]
    deployment: str
    quiet_seconds: float


def examined(console: Console, asked: Examination) -> int:
    """Look, tell what was found, and how to mend each fault."""
    checks = chosen(asked)
    with nullcontext() if console.as_json else console.spinner("Looking") as show:

        def tell(names: Sequence[str]) -> None:
            if show:
                show(f"Looking at {', '.join(names)}")

        found = asyncio.run(carry_out(checks, tell))
    _tell(console, found)
    is_bad = any(each.level is Level.FAULT for _, each in found)
    return ExitStatus.FAILED if is_bad else ExitStatus.SUCCEEDED


def chosen(asked: Examination) -> list[Check]:
    """The checks of the parts that are asked for, and, silent, those of others that they need."""
    checks = [
        *host_checks(),
        *EngineChecks(asked.quiet_seconds).checks(),
        *PrefectChecks(asked.deployment).checks(),
        *block_checks(),
    ]
    wanted = frozenset(check.name for check in checks if not asked.only or check.part in asked.only)
    needed = _needed(wanted, {check.name: check.needs for check in checks})
    return [
        check if check.name in wanted else replace(check, is_silent=True)
        for check in checks
        if check.name in needed
    ]


def _needed(wanted: frozenset[str], needs: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Those that are wanted, what they need, what that needs, and so on."""
    found = wanted.union(*(needs[name] for name in wanted))
    return found if found == wanted else _needed(found, needs)


def _tell(console: Console, found: Sequence[tuple[Check, Finding]]) -> None:
    faults = sum(each.level is Level.FAULT for _, each in found)
    if console.as_json:
        told = [
            {
                "name": each.name,
                "part": check.part,
                "level": each.level,
                "says": each.says,
                "mend": each.mend,
            }
            for check, each in found
        ]
        console.document({"healthy": not faults, "findings": told})
        return
    findings = [each for _, each in found]
    if console.is_terminal:
        console.render(_grid(findings))
    else:
        _tell_by_line(console, findings)
    console.line()
    counts = Counter(each.level for each in findings)
    console.line(_summary(counts))
    console.line(_next(counts))


def _grid(found: Sequence[Finding]) -> Table:
    """For a person: nothing is wider than the terminal, and each column keeps to itself."""
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


def _tell_by_line(console: Console, found: Sequence[Finding]) -> None:
    """For a pipe: a finding a line, and what to do on the next."""
    width = max(len(each.name) for each in found)
    for each in found:
        console.line(f"{each.level:<10}{each.name:<{width}}  {shown_lines(each.says)}")
        if each.mend:
            console.line(f"{'':10}{'':{width}}  → {shown_lines(each.mend)}")


def _summary(counts: Mapping[Level, int]) -> str:
    told = [
        _count(counts[Level.FAULT], "fault"),
        _count(counts[Level.WARNING], "warning"),
        *([f"{counts[Level.SKIPPED]} skipped"] if counts[Level.SKIPPED] else []),
        f"{counts[Level.OK]} ok",
    ]
    return f"{', '.join(told)}."


def _next(counts: Mapping[Level, int]) -> str:
    if counts[Level.FAULT]:
        return "Mend the faults, from the top, and look again."
    if counts[Level.SKIPPED]:
        return "What was looked at can take work; see why the rest was skipped."
    if counts[Level.WARNING]:
        return "This can take work; mend the warnings when there is time."
    return "This can take work."


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
