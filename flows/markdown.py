"""Markdown that shows a stranger's text as text. Pure."""

from collections.abc import Sequence

from flows.text import visible


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
