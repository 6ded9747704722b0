"""A stranger's text as people may see it, on a page and in a terminal. Pure.

What a container prints, or calls its files, may hold sequences that move the cursor, retitle the
window or turn the reading order around: on a page they are rubbish, in a terminal an attack.
"""

import re

# ECMA-48: control strings such as window titles, then control sequences such as colours, then
# the escapes of two characters.
ESCAPES = re.compile(
    r"(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c|$)"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b[ -/]*[0-~]",
    re.MULTILINE,
)
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
# The controls, line separators of Unicode, and what reorders text.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def one_line(text: str, limit: int) -> str:
    """The text on one line, cut at `limit` characters.

    What would not show, or would turn the line around it, is shown as its escape.
    """
    flat = " ".join(text.split())
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in flat)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def visible(text: str) -> str:
    """`text` with an escape for each character that acts instead of being seen; tabs and line
    ends stay."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def shown_lines(text: str) -> str:
    """The lines of a program's output as a terminal would leave them: without colours, and of a
    line that was written over its last state."""
    plain = ESCAPES.sub("", text).replace("\r\n", "\n")
    return "\n".join(visible(_last_state(line)) for line in plain.split("\n"))


def _last_state(line: str) -> str:
    return next(filter(None, reversed(line.split("\r"))), "").replace("\x07", "")
