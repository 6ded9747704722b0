"""Checks as data, and asyncio tasks that run them side by side, each after those that it needs.

A check never raises and never hangs: whatever it meets becomes a finding.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from flows.errors import ContainerTaskError

_LOOK = "see in docs/cli.md what doctor looks at there, mend what this says, and look again"


class Part(StrEnum):
    """What a check looks at."""

    HOST = "host"
    ENGINE = "engine"
    PREFECT = "prefect"


class Level(StrEnum):
    """How a check ended. Published: never rename one."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: `says` is what is so, and where; `mend` what to do about it."""

    level: Level
    name: str
    says: str
    mend: str = ""


ok = partial(Finding, Level.OK)
# Work can be accepted, and something is not as it should be.
warning = partial(Finding, Level.WARNING)
# Work cannot be accepted like this.
fault = partial(Finding, Level.FAULT)
skipped = partial(Finding, Level.SKIPPED)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at, within `seconds`; left out where one that it `needs` has a fault. Of
    one that `is_silent`, only those that need it tell."""

    name: str
    part: Part
    look: Callable[[], Coroutine[Any, Any, Sequence[Finding]]]
    needs: tuple[str, ...] = ()
    seconds: float = 30.0
    is_silent: bool = False


def split_advice(sentence: str) -> tuple[str, str]:
    """What an error's sentence says is so, and what to do, which it tells after a semicolon."""
    says, _, mend = sentence.rpartition("; ")
    return (says, mend) if says else (sentence, "")


async def run_checks(
    checks: Sequence[Check], tell: Callable[[Sequence[str]], None]
) -> list[tuple[Check, Finding]]:
    """Everything that the checks find, in their order; `tell` hears which are still at it."""
    silent = {check.name for check in checks if check.is_silent}
    running: dict[str, asyncio.Task[Sequence[Finding]]] = {}

    async def run(check: Check) -> Sequence[Finding]:
        for need in check.needs:
            for each in await running[need]:
                if each.level in (Level.FAULT, Level.SKIPPED):
                    says = f"not looked at, because of {need}"
                    if need in silent:
                        return [skipped(check.name, f"{says}: {each.says}", each.mend)]
                    return [skipped(check.name, says)]
        return await _within_limits(check)

    for check in checks:
        running[check.name] = asyncio.create_task(run(check))
    left = set(running.values())
    while left:
        tell([name for name, task in running.items() if task in left])
        _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
    loud = (check for check in checks if not check.is_silent)
    return [(check, each) for check in loud for each in running[check.name].result()]


async def _within_limits(check: Check) -> Sequence[Finding]:
    """What a check finds; a fault where it takes too long or raises."""
    try:
        async with asyncio.timeout(check.seconds):
            return await check.look()
    except TimeoutError:
        says = f"gave no answer within {check.seconds:.0f} s"
        return [fault(check.name, says, "see whether what it looks at hangs, and look again")]
    except ContainerTaskError as error:
        says, mend = split_advice(str(error))
        return [fault(check.name, says, mend or _LOOK)]
    except Exception as error:  # noqa: BLE001 - one check must not keep the others from telling
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return [fault(check.name, f"could not be looked at ({said})", _LOOK)]
