"""What a Markdown renderer makes of a text: its tables, and the words that it shows."""

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

_RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
# What stands between words and changes none of them.
SHAPE = {"document", "paragraph", "table", "thead", "tbody", "tr", "th", "td", "inline",
         "bullet_list", "list_item", "blockquote", "text", "code_inline", "fence"}  # fmt: skip
# Where a renderer of GitHub's kind makes links of text that nobody marked, in words and not in
# code: its specification's extended autolinks.
AUTOLINK = re.compile(r"https?://\S|ftp://\S|www\.\S|[\w.+-]+@[\w-]+\.", re.IGNORECASE)


def tokens(markdown: str) -> Iterator[Token]:
    for token in _RENDERER.parse(markdown):
        yield token
        yield from token.children or ()


def kinds(markdown: str) -> set[str]:
    """Of the elements; those beyond `SHAPE` are markup that somebody sees."""
    return {token.type.removesuffix("_open").removesuffix("_close") for token in tokens(markdown)}


def words(markdown: str) -> list[str]:
    """The text that is no code, from one element to the next."""
    found = [""]
    for token in tokens(markdown):
        if token.type == "text":
            found[-1] += token.content
        elif token.type == "code_inline" or token.nesting:
            found.append("")
    return list(filter(None, found))


def shown(token: Token) -> str:
    return "".join(child.content for child in token.children or ())


def lines(markdown: str) -> list[str]:
    """What each paragraph, cell and point shows."""
    return [shown(token) for token in tokens(markdown) if token.type == "inline"]


def rows(markdown: str) -> list[dict[str, str]]:
    """Of the one table that it is."""
    head, *rest = [line.count("|") > 1 and line for line in markdown.splitlines()]
    assert head
    assert all(rest)
    cells = lines(markdown)
    width = len([token for token in tokens(markdown) if token.type == "th_open"])
    columns, values = cells[:width], cells[width:]
    return [
        dict(zip(columns, values[at : at + width], strict=True))
        for at in range(0, len(values), width)
    ]
