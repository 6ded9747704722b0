"""Amounts as people read them."""

import pytest

from flows.units import duration, processors, size


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (999 * 1024, "999 KiB"),
        (1000 * 1024**2, "1000 MiB"),
        (1023 * 1024**2, "1023 MiB"),
        (1_288_490_189, "1.2 GiB"),
        (5000 * 1024**4, "5000 TiB"),
    ],
)
def test_a_size_has_three_digits_and_a_unit(number: int, told: str) -> None:
    assert size(number) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (0.004, "0 s"),
        (0.25, "0.25 s"),
        (1.26, "1.3 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3599.6, "1 h"),
        (3629, "1 h"),
        (3900, "1 h 5 min"),
        (86_399, "1 d"),
        (90_000, "1 d 1 h"),
        (30 * 86_400, "30 d"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (1, "1 CPU"),
        (0.5, "0.5 CPUs"),
        (1.996, "2 CPUs"),
        (0.2613, "0.26 CPUs"),
        (1.25, "1.25 CPUs"),
        (64, "64 CPUs"),
    ],
)
def test_processors_are_counted(number: float, told: str) -> None:
    assert processors(number) == told
