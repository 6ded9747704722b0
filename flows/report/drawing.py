"""Draw with `pygal`: one SVG, with nothing to load, for light pages and dark ones."""

import re
from collections.abc import Sequence
from typing import Any

import pygal
from pygal.etree import etree
from pygal.style import Style

from flows.report.chart import Panel, time_ticks
from flows.sizes import duration

# Its finder of maps, of which there are none, lacks what Python asks a finder for: Python warns of
# that at every import that fails.
pygal.PluginImportFixer.find_spec = staticmethod(lambda *_: None)

_WIDTH, _HEIGHT, _MARGIN = 900, 300, 12
_INK, _PALE, _PAPER, _USED, _LIMIT = "#1f2937", "#e5e7eb", "#ffffff", "#2563eb", "#b91c1c"
_DECIMALS = re.compile(r"(\.\d)\d+")
_STYLE = Style(
    background="transparent",
    plot_background="transparent",
    foreground=_INK,
    foreground_strong=_INK,
    foreground_subtle=_PALE,
    guide_stroke_color=_PALE,
    major_guide_stroke_color=_PALE,
    colors=(_USED, _LIMIT),
    font_family="system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif",
    title_font_size=17,
    label_font_size=12,
    major_label_font_size=12,
    legend_font_size=13,
    transition="none",
)


def draw(panels: Sequence[Panel], seconds: float) -> str:
    """The panels one above the other, on a page of their own colour."""
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
    chart = pygal.XY(
        style=_STYLE,
        width=_WIDTH,
        height=_HEIGHT,
        js=(),
        no_prefix=True,
        show_dots=False,
        title=panel.title,
        legend_at_bottom=True,
        range=(0, panel.value_ticks[-1]),
        xrange=(0, seconds),
        value_formatter=panel.told,
        x_value_formatter=duration,
        x_labels=time_ticks(seconds),
        y_labels=panel.value_ticks,
        margin=_MARGIN,
    )
    chart.add(panel.name, panel.values, fill=True)
    if panel.shows_limit:
        chart.add("Limit", [(0, panel.limit), (seconds, panel.limit)], stroke_style={"width": 2})
    return chart.render_tree()


def _strip(chart: Any, *tags: str) -> None:
    """Take out what a picture has no use for, comments too; the first chart's style is for all."""
    for parent in list(chart.iter()):
        for child in list(parent):
            if child.tag in tags or callable(child.tag):
                parent.remove(child)
            elif "d" in child.attrib:
                child.attrib["d"] = _DECIMALS.sub(r"\1", child.attrib["d"])
