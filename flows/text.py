"""A stranger's text as people may see it. Pure."""


def one_line(text: str, limit: int) -> str:
    """The text on one line, cut at `limit` characters.

    What would not show, or would turn the line around it, is shown as its escape.
    """
    flat = " ".join(text.split())
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in flat)
    return line if len(line) <= limit else line[: limit - 1] + "…"
