"""Memory and CPU of a container over time as an SVG, which pygal draws. Pure.

pygal is imported by the first picture only: most runs are too short for one.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from flows.engine.types import Point
from flows.units import duration, processors, size

# Below, a picture would tell no more than the report's numbers.
_LEAST_SECONDS = 5.0
# Use that is lower than this share of its limit has a scale of its own.
_FAR_BELOW = 0.1
_MOST_TICKS = 6
_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200)
_WIDTH, _HEIGHT, _MARGIN = 900, 300, 12
_INK, _PALE, _PAPER, _USED, _LIMIT = "#1f2937", "#e5e7eb", "#ffffff", "#2563eb", "#b91c1c"
_STYLE = {
    "background": "transparent",
    "plot_background": "transparent",
    "foreground": _INK,
    "foreground_strong": _INK,
    "foreground_subtle": _PALE,
    "guide_stroke_color": _PALE,
    "major_guide_stroke_color": _PALE,
    "colors": (_USED, _LIMIT),
    "font_family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif",
    "title_font_size": 17,
    "label_font_size": 12,
    "major_label_font_size": 12,
    "legend_font_size": 13,
    "transition": "none",
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity over time; `limit` is None where there is none. `unit` writes a value for
    people, `step` rounds one up to a step of the axis."""

    name: str
    values: Sequence[tuple[float, float]]
    limit: float | None
    unit: Callable[[float], str]
    step: Callable[[float], float]

    @property
    def highest(self) -> float:
        return max((value for _, value in self.values), default=0.0)

    @property
    def shows_limit(self) -> bool:
        return self.limit is not None and self.highest >= _FAR_BELOW * self.limit

    @property
    def value_ticks(self) -> Sequence[float]:
        limit = self.limit if self.shows_limit and self.limit else 0.0
        return _ticks(max(self.highest, limit), self.step)

    @property
    def title(self) -> str:
        most = self.unit(self.highest)
        if self.limit is None:
            return f"{self.name}: at most {most}; it had no limit"
        share = f"{100 * self.highest / self.limit:.0f} %"
        where = "" if self.shows_limit else " (off the scale)"
        limit = self.unit(self.limit)
        return f"{self.name}: at most {most}, {share} of its limit of {limit}{where}"


def usage_svg(points: Sequence[Point], memory_bytes: int | None, cpus: float | None) -> str | None:
    """Memory and CPU over time, one above the other; None for a life too short for a picture. CPU
    is given as the number of processors in use between two points."""
    if len(points) < 3 or points[-1].seconds < _LEAST_SECONDS:
        return None
    memory = [(at.seconds, float(at.memory_bytes)) for at in points if at.memory_bytes is not None]
    panels = (
        Panel("Memory", memory, memory_bytes, lambda value: size(round(value)), _power),
        Panel("CPU", used_processors(points), cpus, processors, _round),
    )
    shown = [panel for panel in panels if panel.values]
    return _svg(shown, points[-1].seconds) if shown else None


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


def _ticks(highest: float, step_above: Callable[[float], float]) -> list[float]:
    """From 0 in even steps that people count in, to the first that is not below `highest`."""
    step = step_above(highest / (_MOST_TICKS - 1) or 1)
    return [step * number for number in range(max(1, math.ceil(highest / step)) + 1)]


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


def _svg(panels: Sequence[Panel], seconds: float) -> str:
    """The panels one above the other, on a page of their own colour."""
    from pygal.etree import etree

    height = _HEIGHT * len(panels)
    page = etree.Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {height}",
        width=str(_WIDTH),
        height=str(height),
    )
    etree.SubElement(page, "rect", width="100%", height="100%", rx="8", fill=_PAPER)
    for number, panel in enumerate(panels):
        chart = _chart(panel, seconds)
        # The first one's style is for all.
        _strip(chart, "script", *(["style"] if number else []))
        chart.attrib |= {"y": str(number * _HEIGHT), "height": str(_HEIGHT), "width": str(_WIDTH)}
        page.append(chart)
    text: str = etree.tostring(page, encoding="unicode")
    return text


def _chart(panel: Panel, seconds: float) -> Any:
    from pygal import XY
    from pygal.style import Style

    chart = XY(
        style=Style(**_STYLE),
        width=_WIDTH,
        height=_HEIGHT,
        js=(),
        no_prefix=True,
        show_dots=False,
        title=panel.title,
        legend_at_bottom=True,
        range=(0, panel.value_ticks[-1]),
        xrange=(0, seconds),
        value_formatter=panel.unit,
        x_value_formatter=duration,
        x_labels=[tick for tick in _ticks(seconds, _time_step) if tick <= seconds],
        y_labels=panel.value_ticks,
        margin=_MARGIN,
    )
    chart.add(panel.name, panel.values, fill=True)
    if panel.shows_limit:
        chart.add("Limit", [(0, panel.limit), (seconds, panel.limit)], stroke_style={"width": 2})
    return chart.render_tree()


def _strip(chart: Any, *tags: str) -> None:
    """Take out what a picture has no use for: those tags, comments, and decimals of paths."""
    for parent in list(chart.iter()):
        for child in list(parent):
            if child.tag in tags or callable(child.tag):
                parent.remove(child)
            elif "d" in child.attrib:
                child.attrib["d"] = re.sub(r"(\.\d)\d+", r"\1", child.attrib["d"])
