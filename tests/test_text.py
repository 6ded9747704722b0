"""A stranger's text in Markdown: nothing of it acts, and all of it reads as it was written."""

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flows.text import code, escape, fence, one_line, table, visible
from tests.rendered import AUTOLINK, SHAPE, kinds, lines, tokens, words
from tests.strategies import bounded

TRICKY = (
    "Cache<int>", "__init__.py", "a|b", "*x*", "1. x", "1) x", "# x", "&amp;", "&lt;b&gt;", "\\*",
    "a_b_c", "~~x~~", "$x$", "`tick`", "``two`", "- x", "+ x", "=== x", "[ ] x", "a\\|b", "\\",
    "![b](http://h/x)", "<img src=http://h/x>", "http://h/x<img src=http://h/y>", "www.evil.test/x",
    "<script>alert(1)</script>", "[a](javascript:alert(1))", "me@evil.test", "<http://h/x>",
    "http://h/a|b`c`", "ftp://h/x", "HTTP://H.X", "x [^1]", "---", "> q", ": x", "|---|",
    "https://h/`<img src=http://h/x>`", "[x]: http://h", "&#60;b&#62;", "git@host:a/b",
)  # fmt: skip
PIECES = st.sampled_from(
    [*TRICKY, "http://", "www.", "a@b.cd", "&amp;", "`", "``", "|", "\\", "<b>", "<!--", "-->",
     "](", "![", "{", "$", "^", "\n", "\t", " ", "\u202e", "\u200b", "\x1b[1m", "é", "日本"]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=8).map("".join)
PLACES: dict[str, Callable[[str], str]] = {
    "a paragraph": lambda text: text,
    "a point": lambda text: f"- {text}",
    "a quotation": lambda text: f"> {text}",
    "a cell": lambda text: table(("a", "b"), [("x", text)]),
}


@pytest.mark.parametrize("written", [escape, code])
@pytest.mark.parametrize("place", PLACES)
@bounded(300)
@given(text=TEXTS)
@example(text=" ".join(TRICKY))
@example(text="http://h/x<img src=http://h/y>")
@example(text="1. x")
@example(text="\\http://x\\|y")
def test_a_strangers_text_is_neither_markup_nor_a_link_and_reads_as_it_was_written(
    text: str, place: str, written: Callable[[str], str]
) -> None:
    markdown = PLACES[place](written(text))
    wanted = " ".join(visible(" ".join(text.split())).split())
    assert kinds(markdown) <= SHAPE
    assert [line for line in map(str.strip, lines(markdown)) if line][-1:] == (
        [wanted] if wanted else ["x"] if place == "a cell" else []
    )
    assert not [found for each in words(markdown) if (found := AUTOLINK.search(each))]


@bounded(300)
@given(text=TEXTS)
@example(text="```\n~~~\n````")
def test_a_block_of_text_is_the_text(text: str) -> None:
    plain = visible(text)
    (block,) = [token for token in tokens(fence(plain)) if token.type == "fence"]
    assert block.content == f"{plain}\n"


@pytest.mark.parametrize("text", ["a &amp; b", "&lt;b&gt;", "it&#39;s", "&quot;"])
def test_a_block_that_the_first_ui_would_decode_is_in_a_language_that_it_colours(text: str) -> None:
    (block,) = [token for token in tokens(fence(text, "sh")) if token.type == "fence"]
    assert (block.info, block.content) == ("json", f"{text}\n")
    assert fence("a & b", "sh").startswith("```sh\n")


@pytest.mark.parametrize(
    "unseen",
    [
        "\u202e", "\u2066", "\u200f", "\u061c", "\u200b", "\u2060", "\ufeff", "\u00ad", "\u3164",
        "\u115f", "\u2800", "\u180e", "\u034f", "\ufff9", "\U000e0041", "\u2028", "\x07", "\x9b",
        "\u200d", "\ud800",
    ],
)  # fmt: skip
def test_what_is_not_seen_or_turns_the_text_around_is_shown_as_an_escape(unseen: str) -> None:
    escaped = ascii(unseen)[1:-1]
    for show in (visible, lambda text: one_line(text, 99)):
        if unseen != "\u2028" or show is visible:
            assert show(f"a{unseen}b") == f"a{escaped}b"
    assert visible(f"a{unseen}b").isprintable()


@pytest.mark.parametrize(
    "text", ["👩\u200d💻", "नम\u200dस्ते", "日本\u3000語", "☎️", "n̈", "éß", "\ue0b0"]
)
def test_what_people_write_stays(text: str) -> None:
    assert visible(text) == text
