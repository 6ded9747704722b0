"""`runner.log`, the container's output, and `execute.log`, what the stages did.

Container output goes two ways: whole to the file, in at most a record a second to Prefect's log.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from flows.masking import Masker
from flows.text import shown_lines, visible
from flows.workspace.folder import Workspace

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]
# One record for Prefect a second and of this size at most, and this much in all: a task that
# prints without end costs its server a bounded amount. The file has everything.
_RECORD_BYTES = 16 * 1024
_TOTAL_BYTES = 4 * 1024**2
_TAIL_BYTES = 4096


class Journal:
    """`execute.log`: what the stages did, a line each, and in Prefect's log as well."""

    def __init__(self, workspace: Workspace, logger: Logger) -> None:
        self._file = workspace.log_file(workspace.execute_log)
        self._logger = logger

    def say(self, sentence: str, level: int = logging.INFO) -> None:
        """Log one sentence, with the time; a full disk is logged and not raised."""
        sentence = visible(sentence)
        self._logger.log(level, sentence)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            self._file.write(f"{now} {sentence}\n".encode())
        except OSError as error:
            self._logger.warning("execute.log is incomplete: %s", error.strerror)

    def warn(self, sentence: str) -> None:
        """Say it as a warning."""
        self.say(sentence, logging.WARNING)

    def move_to_artifacts(self) -> None:
        """See `LogFile.move_to_artifacts`; where that fails, the file stays where it is."""
        # A disk that is full by now must not replace what the run came to.
        with suppress(OSError):
            self._file.move_to_artifacts()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What became of the output; `error` is one sentence where `runner.log` is not whole."""

    bytes: int
    lines: int
    dropped_from_ui: int
    error: str | None
    tail: str


class RunnerLog:
    """`runner.log`: takes the container's output, masks it, and hands it to a `LiveOutput` too."""

    def __init__(
        self,
        workspace: Workspace,
        artifacts_subdir: str,
        show: Callable[[str], None],
        *,
        anew: bool = False,
        masker: Masker | None = None,
    ) -> None:
        """With `anew`, all output comes once more: what is in the file was shown before."""
        self._file = workspace.log_file(workspace.runner_log(artifacts_subdir))
        self._masked = (masker or Masker()).stream()
        self._live = LiveOutput(show, skip=self._file.start_over() if anew else 0)
        # Of what an earlier process wrote, and nobody can give again.
        self._bytes = self._file.size_bytes
        self._lines = self._file.lines()
        self._error: str | None = None

    def mask_with(self, masker: Masker) -> None:
        """Mask by `masker` from here on; before the first output, no secret can be cut in two."""
        self._keep_and_show(self._masked.end())
        self._masked = masker.stream()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes; a full disk is noted and the output still drained."""
        self._keep_and_show(self._masked.feed(chunk))

    def so_far(self) -> LogFacts:
        """What is known before the container is gone."""
        text = self._file.tail(_TAIL_BYTES).decode("utf-8", "replace")
        # What a database can keep.
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
        if self._bytes > _TAIL_BYTES:
            text = text.partition("\n")[2] or text
        return LogFacts(self._bytes, self._lines, self._live.dropped, self._error, text)

    def facts(self) -> LogFacts:
        """Move the output of a stopped container to the artifacts; what became of it."""
        self._drain()
        with self._noted():
            self._file.move_to_artifacts()
        return self.so_far()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drain()
        self._file.close()

    def _drain(self) -> None:
        """Take what was held back in case a secret followed."""
        self._keep_and_show(self._masked.end())
        self._live.finish()

    def _keep_and_show(self, chunk: bytes) -> None:
        if not chunk:
            return
        self._bytes += len(chunk)
        self._lines += chunk.count(b"\n")
        self._live.write(chunk)
        if self._error is None:
            with self._noted():
                self._file.write(chunk)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = self._error or f"runner.log is incomplete: {error.strerror}"


class LiveOutput:
    """Shows output in one record a second, which counts what it leaves out.

    After the total is spent only the very end is shown, when `finish` is called.
    """

    def __init__(
        self, show: Callable[[str], None], every_seconds: float = 1.0, skip: int = 0
    ) -> None:
        """The first `skip` bytes are left out: they were shown before."""
        self._show = show
        self._skip = skip
        self._every_seconds = every_seconds
        self._newest = bytearray()
        self._left_out = 0
        self._shown = 0
        self.dropped = 0
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._thread = threading.Thread(
            target=self._show_each_second, daemon=True, name="container output"
        )
        self._thread.start()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes; never blocks for longer than a copy."""
        with self._lock:
            fresh = chunk[self._skip :]
            self._skip -= len(chunk) - len(fresh)
            self._newest += fresh
            surplus = len(self._newest) - _RECORD_BYTES
            if surplus > _RECORD_BYTES:
                self._left_out += surplus
                del self._newest[:surplus]

    def finish(self) -> None:
        """Show what is left, and stop. Safe to call twice."""
        self._finished.set()
        self._thread.join()

    def _show_each_second(self) -> None:
        while not self._finished.wait(self._every_seconds):
            if self._shown < _TOTAL_BYTES:
                self._flush(whole_lines=True)
        self._flush(whole_lines=False)

    def _flush(self, *, whole_lines: bool) -> None:
        with self._lock:
            last_line = self._newest.rfind(b"\n") + 1
            end = last_line if whole_lines and last_line else len(self._newest)
            record, left_out = bytes(self._newest[:end]), self._left_out
            del self._newest[:end]
            self._left_out = 0
        if not record:
            return
        self._shown += len(record)
        self.dropped += left_out
        note = f"[{left_out} bytes left out here; runner.log has them]\n" if left_out else ""
        # The worker's own output and journal, too, are read in a terminal.
        self._show(note + shown_lines(record.decode("utf-8", "replace").rstrip("\n")))
