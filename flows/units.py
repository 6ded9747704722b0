"""Amounts of bytes, of time and of processors, as people read them."""

import re
from dataclasses import dataclass

GIB = 1024**3


def size(number: int) -> str:
    """`1.5 MiB` for 1572864."""
    scaled, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if scaled < 1024:
            break
        scaled, unit = scaled / 1024, larger
    if unit == "B":
        return f"{number} B"
    # Three digits, and not `1e+03` from 1000 on.
    return f"{scaled:.0f} {unit}" if scaled >= 999.5 else f"{scaled:.3g} {unit}"


def duration(seconds: float) -> str:
    """`3 min 20 s` for 200: the two largest units, decimals only below ten seconds."""
    if seconds < 9.95:
        return f"{round(seconds, 2 if seconds < 1 else 1):g} s"
    step = 3600 if seconds >= 86_400 else 60 if seconds >= 3600 else 1
    left = round(seconds / step) * step
    parts = []
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def processors(number: float) -> str:
    """`1 CPU`, `0.5 CPUs`."""
    told = f"{round(number, 2):g}"
    return f"{told} CPU" if told == "1" else f"{told} CPUs"


@dataclass(frozen=True, slots=True)
class Resources:
    """Processors and bytes of memory."""

    cpus: float = 0.0
    memory_bytes: int = 0

    def __sub__(self, other: "Resources") -> "Resources":
        return Resources(self.cpus - other.cpus, self.memory_bytes - other.memory_bytes)

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(self.cpus + other.cpus, self.memory_bytes + other.memory_bytes)

    def lacks(self, needs: "Resources") -> "Resources":
        """What of `needs` this has too little for; nothing where they fit."""
        return Resources(
            needs.cpus if needs.cpus and needs.cpus > self.cpus + 1e-9 else 0.0,
            needs.memory_bytes if needs.memory_bytes > max(0, self.memory_bytes) else 0,
        )

    def __bool__(self) -> bool:
        return self != Resources()

    def __str__(self) -> str:
        cpus = f"{self.cpus:g} CPU{'s' if self.cpus != 1 else ''}" if self.cpus else ""
        memory = _size_text(self.memory_bytes) if self.memory_bytes else ""
        return " and ".join(filter(None, (cpus, memory))) or "nothing"


NOTHING = Resources()


def _size_text(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"


# Docker's units, Kubernetes' and those that people write: all of them are powers of 1024.
_AMOUNT = re.compile(r"(\d{1,19})(?:\.(\d{1,9}))?\s*(?:([kmgt])(?:i?b|i)?|b)?", re.I | re.ASCII)
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def canonical_amount(text: str) -> str | None:
    """A whole number with at most one unit letter, as Docker writes it: `16g` for `16 GiB`, and
    `1536m` for `1.5g`."""
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        return None
    whole, fraction, unit = found[1], (found[2] or "").rstrip("0"), (found[3] or "").lower()
    if not fraction:
        return f"{int(whole)}{unit}"
    if not unit:
        return None
    # Docker drops what is left of a byte.
    number = int(whole + fraction) * _UNITS[unit] // 10 ** len(fraction)
    smaller = "tgmk".partition(unit)[2]
    exact = (f"{number // _UNITS[each]}{each}" for each in smaller if number % _UNITS[each] == 0)
    return next(exact, str(number))


def memory_bytes(amount: str) -> int:
    """Bytes of a canonical amount."""
    number, unit = amount.rstrip("kmgt"), amount.lstrip("0123456789")
    return int(number) * _UNITS[unit]
