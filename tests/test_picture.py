"""The picture of what a run used: its scale, its size, and that it loads nothing."""

import math
import re
import subprocess
import sys
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest

from flows.engine.types import MAX_POINTS, Point, Series, thinned
from flows.report.chart import usage_svg, used_processors

GIB = 1024**3


def life(seconds: int, step: float = 1.0, peak: int = GIB, processors: float = 1.5) -> list[Point]:
    """A container that uses more and less of both."""
    return [
        Point(step * i, int(peak * (i % 50 + 1) / 50), step * i * processors)
        for i in range(1, int(seconds / step) + 1)
    ]


def drawn(
    points: Sequence[Point], memory_bytes: int | None = 2 * GIB, cpus: float | None = 2
) -> str:
    svg = usage_svg(points, memory_bytes, cpus)
    assert svg is not None
    return svg


def texts(svg: str) -> list[str]:
    """What can be read in a picture."""
    found = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return [text for each in found if (text := "".join(each.itertext()))]


@pytest.mark.parametrize(
    "points",
    [
        [],
        [Point(9, 1, 1)],
        [Point(1, 1, 1), Point(9, 1, 1)],
        life(4),
        [Point(i, None, None) for i in range(1, 20)],
    ],
)
def test_a_short_life_gives_no_picture(points: Sequence[Point]) -> None:
    assert usage_svg(points, GIB, 1) is None


def test_the_titles_tell_the_peak_and_its_share_of_the_limit() -> None:
    titles = texts(drawn(life(60)))
    assert "Memory: at most 1 GiB, 50 % of its limit of 2 GiB" in titles
    assert "CPU: at most 1.5 CPUs, 75 % of its limit of 2 CPUs" in titles
    assert titles.count("Limit") == 2


def test_the_axes_have_units_and_people_s_steps() -> None:
    seen = texts(drawn(life(60), memory_bytes=2 * GIB))
    for tick in ("0 B", "512 MiB", "1 GiB", "1.5 GiB", "2 GiB", "0 CPUs", "0.5 CPUs", "1 CPU"):
        assert tick in seen
    assert [seen.count(tick) for tick in ("0 s", "15 s", "30 s", "45 s", "1 min")] == [2] * 5


def test_what_has_no_limit_says_so_and_shows_no_line() -> None:
    seen = texts(drawn(life(60), None, None))
    assert "Memory: at most 1 GiB; it had no limit" in seen
    assert "Limit" not in seen


def test_use_far_below_its_limit_has_a_scale_of_its_own() -> None:
    seen = texts(drawn(life(60), memory_bytes=64 * GIB))
    assert "Memory: at most 1 GiB, 2 % of its limit of 64 GiB (off the scale)" in seen
    assert "64 GiB" not in seen
    assert "1 GiB" in seen


@pytest.mark.parametrize(
    ("seconds", "step", "peak", "cpus"),
    [(5, 1.0, 1, 0.01), (60, 1.0, GIB, 64), (7 * 86_400, 1010.0, 1024 * GIB, 1000)],
)
def test_a_picture_of_any_life_is_small_and_loads_nothing(
    seconds: int, step: float, peak: int, cpus: float
) -> None:
    series = Series()
    for point in life(seconds, step, peak, cpus / 2):
        series.add(point)
    svg = drawn(thinned(series.points, 240), peak, cpus)
    assert len(svg) < 30_000
    assert set(re.findall(r"\w+://[^\"'<> ]+", svg)) == {"http://www.w3.org/2000/svg"}
    root = ElementTree.fromstring(svg)
    names = {each.tag.rpartition("}")[2] for each in root.iter()}
    assert not names & {"script", "image", "use", "foreignObject", "a", "link"}
    assert not re.search(r"@import|url\(|href|\bon\w+=|<!--|<\?", svg)
    assert not re.search(r"nan|inf\b", svg, re.IGNORECASE)


def test_a_full_series_fits_too() -> None:
    assert len(drawn(life(MAX_POINTS))) < 60_000


def test_processors_in_use_are_what_a_counter_gained_between_two_points() -> None:
    points = [
        Point(1, None, 0.5),
        Point(2, None, 2.5),
        Point(2.5, None, None),
        Point(4, None, 3.5),
        # The clock was set back; then the counter began anew.
        Point(3, None, 3.6),
        Point(5, None, 0.1),
        Point(6, None, 0.6),
    ]
    assert used_processors(points) == [(1, 2.0), (2, 2.0), (2, 0.5), (4, 0.5), (5, 0.5), (6, 0.5)]


@pytest.mark.parametrize("count", [1, 2, 239, 240, 241, 599, 600])
def test_thinning_keeps_the_peak_the_span_and_the_rates(count: int) -> None:
    points = [Point(i, 9 if i == count // 2 else 1, i / 4) for i in range(count)]
    thin = thinned(points, 240)
    assert min(count, 120) <= len(thin) <= 240
    assert max(point.memory_bytes or 0 for point in thin) == 9
    assert thin[-1].seconds == count - 1
    rates = [used for _, used in used_processors(thin)]
    assert all(math.isclose(rate, 0.25) for rate in rates)


def python(program: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_after_a_picture_imports_work_and_fail_as_they_did_and_nobody_is_warned() -> None:
    done = python(
        "from importlib.util import find_spec\n"
        "from flows.engine.types import Point\n"
        "from flows.report.chart import usage_svg\n"
        "assert usage_svg([Point(i, i, i) for i in range(9)], None, None)\n"
        "assert find_spec('no_such_module') is None\n"
        "assert find_spec('xml.no_such_module') is None\n"
        "import wave\n"
        "try:\n"
        "    import no_such_module\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error.name)\n"
    )
    assert (done.stdout, done.stderr) == ("no_such_module\n", "")


def test_a_picture_is_paid_for_by_those_who_want_one() -> None:
    done = python(
        "import sys\n"
        "from flows.report import chart\n"
        "from flows.runtime import publish\n"
        "chart.usage_svg([], None, None)\n"
        "print('pygal' in sys.modules)\n"
    )
    assert done.stdout == "False\n", done.stderr
