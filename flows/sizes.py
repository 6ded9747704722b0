"""Amounts of bytes, of time and of processors, as people read them."""


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
