"""Standard output for answers, standard error for everything else, and the exit statuses.

Colours and moving lines are for terminals alone, and NO_COLOR is respected. What a container wrote
is made harmless before a terminal sees it.
"""

import codecs
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flows.errors import ContainerTaskError, EngineUnavailable, Fault, PayloadError
from flows.text import shown_lines

if TYPE_CHECKING:
    import rich.console

# Of a line that does not end: a terminal shows it in parts of so many characters.
_LONGEST = 64 * 1024


class ExitStatus(IntEnum):
    """Published in docs/cli.md: never change a number. Every outcome of a run has its name."""

    SUCCEEDED = 0
    FAILED = 1
    BAD_INPUT = 2
    UNREACHABLE = 3
    UNKNOWN = 4
    TIMED_OUT = 10
    OUT_OF_MEMORY = 11
    CANCELED = 12
    REJECTED = 13
    IMAGE_ERROR = 14
    INFRASTRUCTURE = 15
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class CommandError(Exception):
    """The command cannot do what it was asked; `str()` is one sentence for a person."""

    def __init__(
        self, sentence: str, status: ExitStatus = ExitStatus.BAD_INPUT, faults: Sequence[Fault] = ()
    ) -> None:
        self.status = status
        self.faults = tuple(faults)
        super().__init__(sentence)


class Console:
    """Where one command prints. With `as_json`, standard output has JSON and nothing else."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._is_moving = False

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads standard output as it comes."""
        return sys.stdout.isatty()

    @property
    def has_colours(self) -> bool:
        return self._stdout.color_system is not None and not self._stdout.no_color

    def line(self, text: str = "") -> None:
        """A line of the answer, unless it is told as JSON."""
        if not self.as_json:
            self._write(text)

    def document(self, value: object) -> None:
        """The whole answer as JSON."""
        self._write(json.dumps(value, indent=2))

    def record(self, kind: str, **values: object) -> None:
        """One line of JSON in an answer of many."""
        if self.as_json:
            self._write(json.dumps({"kind": kind, **values}))

    def log(self, text: str) -> None:
        """What a container or a stage said; colours reach a terminal that takes them."""
        if not self.as_json:
            self._write(shown_lines(text, colours=self.has_colours))

    def say(self, sentence: str) -> None:
        """A remark beside the answer."""
        sys.stdout.flush()
        self._stderr.print(shown_lines(sentence), markup=False, highlight=False, soft_wrap=True)

    def render(self, thing: "rich.console.RenderableType") -> None:
        """A part of the answer that Rich lays out."""
        self._stdout.print(thing, soft_wrap=not self.is_terminal)

    @contextmanager
    def raw(self) -> Iterator[Callable[[bytes], None]]:
        """Takes a container's output as it comes: whole into a pipe or a file, and line by line
        onto a terminal. Where the answer is JSON, it is a remark."""
        stream = sys.stderr if self.as_json else sys.stdout

        def write(chunk: bytes) -> None:
            stream.buffer.write(chunk)
            stream.buffer.flush()

        if not stream.isatty():
            yield write
            return
        pending, decoder = "", codecs.getincrementaldecoder("utf-8")("replace")

        def show(text: str) -> None:
            write(shown_lines(f"{text}\n", colours=self.has_colours).encode())

        def write_lines(chunk: bytes) -> None:
            # An escape that is cut is none.
            nonlocal pending
            lines, end, pending = (pending + decoder.decode(chunk)).rpartition("\n")
            if len(pending) > _LONGEST:
                lines, end, pending = lines + end + pending, "\n", ""
            if end:
                show(lines)

        try:
            yield write_lines
        finally:
            if pending := pending + decoder.decode(b"", final=True):
                show(pending)

    @contextmanager
    def spinner(self, sentence: str) -> Iterator[Callable[[str], None]]:
        """A line that moves on a terminal while the block runs; the value changes what it says."""
        if not self._stderr.is_terminal:
            yield lambda _: None
            return
        from rich.live import Live
        from rich.spinner import Spinner

        width = self._stderr.width - 4
        spinner = Spinner("dots", shown_lines(sentence)[:width])
        # Where standard output goes elsewhere, what is written there must not come here.
        live = Live(
            spinner,
            console=self._stderr,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with live:
            self._is_moving = True
            try:
                yield lambda text: spinner.update(text=shown_lines(text)[:width])
            finally:
                self._is_moving = False

    def fail(self, error: CommandError) -> None:
        """Tell what keeps the command from its work."""
        faults = [{"path": each.path, "message": each.message} for each in error.faults]
        if self.as_json:
            told: dict[str, Any] = {"error": str(error), "exitStatus": int(error.status)}
            self._write(json.dumps(told | ({"faults": faults} if faults else {})))
            return
        sys.stdout.flush()
        for sentence in error.faults or [error]:
            sys.stderr.write(f"{shown_lines(str(sentence))}\n")

    @cached_property
    def _stdout(self) -> "rich.console.Console":
        return _rich_console(stderr=False)

    @cached_property
    def _stderr(self) -> "rich.console.Console":
        return _rich_console(stderr=True)

    def _write(self, text: str) -> None:
        if self._is_moving and self.is_terminal:
            from rich.text import Text

            # Above the line that moves, which Rich takes care of.
            self._stderr.print(Text.from_ansi(text), soft_wrap=True)
            return
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def answer(command: Callable[[Console], int], *, as_json: bool = False) -> int:
    """Carry a command out; the exit status, also where it ends in an error or an interrupt."""
    console = Console(as_json=as_json)
    try:
        return command(console)
    except CommandError as error:
        failure = error
    except ContainerTaskError as error:
        is_away = isinstance(error, EngineUnavailable)
        status = ExitStatus.UNREACHABLE if is_away else ExitStatus.BAD_INPUT
        faults = error.faults if isinstance(error, PayloadError) else ()
        failure = CommandError(str(error), status, faults)
    except KeyboardInterrupt:
        console.say("Interrupted.")
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        # Python's last flush would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.BROKEN_PIPE
    console.fail(failure)
    return failure.status


def _rich_console(*, stderr: bool) -> "rich.console.Console":
    # Rich takes as long to load as all of `check`.
    import rich.console

    class Piped(rich.console.Console):
        """Leaves a broken pipe to whoever answers, where Rich would end the process."""

        def on_broken_pipe(self) -> None:
            raise

    return Piped(stderr=stderr, highlight=False, soft_wrap=False)
