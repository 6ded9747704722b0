"""Validators of a payload's numbers and amounts: each returns the canonical form, or raises
ValueError with the end of the sentence "<JSON path> …".

A number in quotes and a whole one with `.0` are numbers: templates and spreadsheets write them so.
"""

import re
from typing import Literal

from flows.payload.fields import short
from flows.units import canonical_amount, memory_bytes

_WHOLE = re.compile(r"\d{1,19}(?:\.0+)?", re.ASCII)
_DECIMAL = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)
_MILLI = re.compile(r"(\d{1,9})m", re.ASCII)
_MIN_MEMORY = 6 * 1024**2


def whole_number(value: object) -> object:
    """An integer for `60`, `60.0` and `"60"`; anything else is left for the next check."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    return value


def number(value: object) -> object:
    """The number that a string holds, such as `"1.5"`; anything else is left for the next check."""
    if not isinstance(value, str):
        return value
    if milli := _MILLI.fullmatch(value.strip()):
        raise ValueError(
            f"is {short(value)}, thousandths of a CPU to Kubernetes: write {int(milli[1]) / 1000:g}"
        )
    return float(value) if _DECIMAL.fullmatch(value.strip()) else value


def memory(value: object) -> str:
    """Canonical: a whole number with at most one unit letter, as Docker writes it."""
    return _amount(value, _MIN_MEMORY)


def shared_memory(value: object) -> str:
    """The same, without Docker's least amount for a container."""
    return _amount(value, 1)


def _amount(value: object, least: int) -> str:
    if isinstance(value, float):
        value = whole_number(value)
    text = str(value) if isinstance(value, int | str) and value is not True else ""
    if (amount := canonical_amount(text)) is None:
        raise ValueError(f"is {short(value)}, not an amount of memory")
    if not least <= memory_bytes(amount) < 2**63:
        raise ValueError(f"is {short(value)}, outside what Docker can set")
    return amount


def gpus(value: object) -> int | Literal["all"]:
    """How many, or all of them."""
    value = whole_number(value)
    if value == "all":
        return "all"
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1024:
        raise ValueError(f"is {short(value)}, neither a number of GPUs nor 'all'")
    return value
