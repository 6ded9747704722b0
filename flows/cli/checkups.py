"""`container-task doctor`: the checks chosen, carried out at a time, and what they found."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from rich.text import Text

from flows.checkup import Check, Finding, Level, carry_out
from flows.checkup_blocks import block_checks
from flows.checkup_engine import EngineChecks
from flows.checkup_host import host_checks
from flows.checkup_prefect import PrefectChecks
from flows.cli.console import Output
from flows.cli.exit_status import ExitStatus
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


def examined(output: Output, asked: Examination) -> int:
    """Look, tell what was found, and how to mend each fault."""
    checks = chosen(asked)
    with nullcontext() if output.as_json else output.waiting("Looking") as show:

        def tell(names: Sequence[str]) -> None:
            if show:
                show(f"Looking at {', '.join(names)}")

        found = asyncio.run(carry_out(checks, tell))
    _tell(output, found)
    is_bad = any(each.level is Level.FAULT for _, each in found)
    return ExitStatus.FAILED if is_bad else ExitStatus.SUCCEEDED


def chosen(asked: Examination) -> list[Check]:
    """The checks of the parts that are asked for, but for those that need one of another part."""
    checks = [
        *host_checks(),
        *EngineChecks(asked.quiet_seconds).checks(),
        *PrefectChecks(asked.deployment).checks(),
        *block_checks(),
    ]
    wanted = [check for check in checks if not asked.only or check.part in asked.only]
    names = {check.name for check in wanted}
    return [check for check in wanted if names.issuperset(check.needs)]


def _tell(output: Output, found: Sequence[tuple[Check, Finding]]) -> None:
    faults = sum(each.level is Level.FAULT for _, each in found)
    warnings = sum(each.level is Level.WARNING for _, each in found)
    if output.as_json:
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
        output.document({"healthy": not faults, "findings": told})
        return
    width = max(len(each.name) for _, each in found)
    for _, each in found:
        output.render(_line(each, width))
        if each.mend:
            output.render(Text(f"{'':10}{'':{width}}  → {shown_lines(each.mend)}"))
    output.line(f"{len(found)} findings: {_count(faults, 'fault')}, {_count(warnings, 'warning')}.")


def _line(each: Finding, width: int) -> Text:
    level = (f"{each.level:<10}", _COLOURS[each.level])
    return Text.assemble(level, (f"{each.name:<{width}}  ", "bold"), shown_lines(each.says))


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
