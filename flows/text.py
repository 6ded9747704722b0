"""A stranger's text as people may see it, on a page and in a terminal. Pure.

What a container prints may move the cursor or turn the reading order around: rubbish on a page, an
attack in a terminal.
"""

import re
from collections.abc import Sequence

# ECMA-48: control strings such as window titles, then control sequences such as colours, then
# the escapes of two characters, then what is left of any.
_ESCAPES = re.compile(
    r"(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*+(?:\x07|\x1b\\|\x9c)?"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b(?:[ -/]*[0-~])?"
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
# What is not seen, or reorders what is: controls, Unicode's line separators, and format characters
# with the blanks that fonts draw for letters. Those that only shape numbers are seen.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b"
    "\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ud800-\udfff\ufeff\uffa0\ufff9-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    # Joiners belong into emoji and some scripts, and hide between letters of others.
    "|(?<![^\x00-\u024f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\u024f])"
)
# Where Markdown of GitHub's kind finds an address that nobody marked as one.
_ADDRESS = re.compile(r"://|@|www\.", re.IGNORECASE)
_ACTIVE = re.compile(r"[\\`*_\[\]<>|#~&!$^{}]")
# What makes an item of a list, or a heading of the line above, where a line begins with it.
_BEGINNING = re.compile(r"^(\d*)([-+=.):])")
# What Prefect's first UI takes for the character that it means, even in a block of code; but not
# in a language that it colours.
_ENTITY = re.compile(r"&(?:lt|gt|quot|amp|#39);")
_COLOURED = "json"


def one_line(text: str, limit: int) -> str:
    """The text on one line, cut at `limit` characters, with escapes for what would not show."""
    # No character becomes less than one.
    line = visible(" ".join(text.split())[: limit + 1])
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
    flat = visible(" ".join(text.split()))
    # A code span cannot show a backtick plainly, nor a backslash before a table's bar.
    return escape(flat) if "`" in flat or "|" in flat else f"`{flat}`" if flat else ""


def escape(text: str) -> str:
    """A stranger's text on one line, none of it markup, and no address in it a link: a renderer
    looks for those when escapes are gone, but not in code."""
    flat = visible(" ".join(text.split()))
    words = map(_as_code if _ADDRESS.search(flat) else _escaped, flat.split(" "))
    return _BEGINNING.sub(r"\1\\\2", " ".join(words))


def _as_code(word: str) -> str:
    if not _ADDRESS.search(word):
        return _escaped(word)
    return re.sub(
        r"([`|])|([^`|]+)", lambda part: f"\\{part[1]}" if part[1] else f"`{part[2]}`", word
    )


def _escaped(word: str) -> str:
    return _ACTIVE.sub(r"\\\g<0>", word)


def fence(text: str, language: str = "text") -> str:
    """A block of text as it stands, whatever it holds."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{_COLOURED if _ENTITY.search(text) else language}\n{text}\n{fence}"
