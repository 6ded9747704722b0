"""What the picture of a run's use of resources shows: quantities, titles, scales. Pure.

`flows.report.drawing` draws it; that is loaded when a picture is wanted, which short runs have no use for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from flows.engine.usage import Point
from flows.sizes import processors, size

# Below, a picture would tell no more than the report's numbers.
_LEAST_SECONDS = 5.0
_LEAST_POINTS = 3
# Use that is lower than this share of its limit has a scale of its own.
_FAR_BELOW = 0.1
_MOST_TICKS = 6
_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200)


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity over time; `limit` is None where there is none."""

    name: str
    values: Sequence[tuple[float, float]]
    limit: float | None
    told: Callable[[float], str]
    step: Callable[[float], float]

    @property
    def highest(self) -> float:
        return max((value for _, value in self.values), default=0.0)

    @property
    def shows_limit(self) -> bool:
        return self.limit is not None and self.highest >= _FAR_BELOW * self.limit

    @property
    def value_ticks(self) -> Sequence[float]:
        """Of the axis of values."""
        limit = self.limit if self.shows_limit and self.limit else 0.0
        return ticks(max(self.highest, limit), self.step)

    @property
    def title(self) -> str:
        """What the picture shows, in a sentence."""
        if self.limit is None:
            return f"{self.name}: at most {self.told(self.highest)}; it had no limit"
        share = f"{100 * self.highest / self.limit:.0f} %"
        where = "" if self.shows_limit else " (off the scale)"
        most = self.told(self.highest)
        return (
            f"{self.name}: at most {most}, {share} of its limit of {self.told(self.limit)}{where}"
        )


def usage_svg(points: Sequence[Point], memory_bytes: int | None, cpus: float | None) -> str | None:
    """Memory and CPU over time, one above the other; None for a life too short for a picture.

    CPU is told as the number of processors in use between two points.
    """
    if len(points) < _LEAST_POINTS or points[-1].seconds < _LEAST_SECONDS:
        return None
    memory = [(at.seconds, float(at.memory_bytes)) for at in points if at.memory_bytes is not None]
    panels = (
        Panel("Memory", memory, memory_bytes, lambda value: size(round(value)), _power),
        Panel("CPU", used_processors(points), cpus, processors, _round),
    )
    shown = [panel for panel in panels if panel.values]
    if not shown:
        return None
    from flows.report.drawing import draw

    return draw(shown, points[-1].seconds)


def used_processors(points: Sequence[Point]) -> list[tuple[float, float]]:
    """How many processors were in use on average, from each point to the next: steps."""
    known = [(at.seconds, at.cpu_seconds) for at in points if at.cpu_seconds is not None]
    steps: list[tuple[float, float]] = []
    for (began, before), (ended, after) in pairwise(known):
        # Neither a clock that was set back nor a counter that began anew tells anything.
        if ended > began and after >= before:
            used = (after - before) / (ended - began)
            steps += [(began, used), (ended, used)]
    return steps


def ticks(highest: float, step_above: Callable[[float], float]) -> list[float]:
    """From 0 in even steps that people count in, to the first that is not below `highest`."""
    step = step_above(highest / (_MOST_TICKS - 1) or 1)
    return [step * number for number in range(max(1, math.ceil(highest / step)) + 1)]


def time_ticks(seconds: float) -> list[float]:
    """The same for time, to the last that is within it."""
    return [tick for tick in ticks(seconds, _time_step) if tick <= seconds]


def _power(least: float) -> float:
    """A power of two: bytes."""
    return float(2 ** math.ceil(math.log2(max(1.0, least))))


def _round(least: float) -> float:
    """1, 2 or 5 with noughts."""
    unit = 10 ** math.floor(math.log10(least))
    return float(next(unit * digit for digit in (1, 2, 5, 10) if unit * digit >= least * 0.999))


def _time_step(least: float) -> float:
    days = 86_400 * math.ceil(least / 86_400)
    return float(next((step for step in _SECONDS if step >= least), days))
