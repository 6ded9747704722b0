"""The output of a container that runs here: whole into a pipe or a file, harmless on a terminal."""

import codecs
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flows.cli.console import Console
from flows.text import shown_lines

# Of a line that does not end: a terminal shows it in parts of so many characters.
_LONGEST = 64 * 1024


@contextmanager
def shown(console: Console) -> Iterator[Callable[[bytes], None]]:
    """Takes the output as it comes. Where the answer is JSON, it is a remark."""
    stream = sys.stderr if console.as_json else sys.stdout

    def write(chunk: bytes) -> None:
        stream.buffer.write(chunk)
        stream.buffer.flush()

    if not stream.isatty():
        yield write
        return
    lines = Lines(lambda text: write(shown_lines(text, colours=console.has_colours).encode()))
    try:
        yield lines.write
    finally:
        lines.end()


class Lines:
    """Whole lines of a stream that comes in pieces, as an escape that is cut is none."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._decoded = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""

    def write(self, chunk: bytes) -> None:
        """Take the next bytes, and show the lines that they end."""
        self._pending += self._decoded.decode(chunk)
        lines, end, rest = self._pending.rpartition("\n")
        if len(rest) > _LONGEST:
            lines, end, rest = self._pending, "\n", ""
        self._pending = rest
        if end:
            self._show(f"{lines}\n")

    def end(self) -> None:
        """Show what did not end in a line of its own."""
        rest, self._pending = self._pending + self._decoded.decode(b"", final=True), ""
        if rest:
            self._show(f"{rest}\n")
