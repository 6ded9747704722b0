"""Amounts of bytes, as people read them."""


def size(number: int) -> str:
    """`1.5 MiB` for 1572864."""
    scaled, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if scaled < 1024:
            break
        scaled, unit = scaled / 1024, larger
    return f"{scaled:.3g} {unit}" if unit != "B" else f"{number} B"
