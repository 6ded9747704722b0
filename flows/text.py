"""A stranger's text as people may see it, on a page and in a terminal. Pure.

What a container prints may move the cursor or turn the reading order around: rubbish on a page, an
attack in a terminal.
"""

import re
from collections.abc import Sequence

# ECMA-48: control strings such as window titles, then control sequences such as colours, then
# the escapes of two characters, then what is left of any.
_ESCAPES = re.compile(
    r"(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c|$)"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b(?:[ -/]*[0-~])?",
    re.MULTILINE,
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
# The controls, line separators of Unicode, and what reorders text.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def one_line(text: str, limit: int) -> str:
    """The text on one line, cut at `limit` characters, with escapes for what would not show."""
    flat = " ".join(text.split())
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in flat)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def visible(text: str, but: str = "") -> str:
    """`text` with escapes for what acts instead of being seen; tabs and line ends stay."""
    return _UNSEEN.sub(lambda found: found[0] if found[0] in but else ascii(found[0])[1:-1], text)


def shown_lines(text: str, *, colours: bool = False) -> str:
    """The lines of a program's output as a terminal would leave them: each in its last state."""

    def kept(found: re.Match[str]) -> str:
        return found[0] if colours and _COLOUR.fullmatch(found[0]) else ""

    plain = _ESCAPES.sub(kept, text).replace("\r\n", "\n")
    # Of escapes, nothing but colours is left.
    shown = "\n".join(visible(_last_state(line), but="\x1b") for line in plain.split("\n"))
    return f"{shown}\x1b[0m" if "\x1b" in shown else shown


def last_line(text: str, limit: int) -> str:
    """The last line of a program's output that says anything, cut at `limit` characters."""
    lines = (one_line(line, limit) for line in reversed(shown_lines(text).splitlines()))
    return next(filter(None, lines), "")


def _last_state(line: str) -> str:
    return next(filter(None, reversed(line.split("\r"))), "").replace("\x07", "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; its cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def code(text: str) -> str:
    """A stranger's text on one line, as code where Markdown can show it so."""
    flat = visible(" ".join(text.splitlines()))
    # A code span cannot show a backtick plainly, nor a backslash before a table's bar.
    return escape(text) if "`" in flat or "|" in flat else f"`{flat}`"


def escape(text: str) -> str:
    """A stranger's text on one line, none of it markup."""
    flat = visible(" ".join(text.split()))
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#~&" else char for char in flat)


def fence(text: str, language: str = "text") -> str:
    """A block of text as it stands, whatever it holds."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
