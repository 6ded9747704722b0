"""Where a run writes what happened: the container's output, and the journal of the stages.

Container output goes two ways: whole and unchanged to `runner.log`, in readable doses to Prefect.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from flows.masking import Masker
from flows.workspace.folder import Workspace

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]

# One record for Prefect a second and of this size at most, and this much in all: a task that
# prints without end costs its server a bounded amount. The file has everything.
_RECORD_BYTES = 16 * 1024
_TOTAL_BYTES = 4 * 1024**2


class Journal:
    """`execute.log`: what the stages did, a line each, told to Prefect as well."""

    def __init__(self, workspace: Workspace, logger: Logger) -> None:
        self._file = workspace.log_file(workspace.execute_log)
        self._logger = logger

    def say(self, sentence: str) -> None:
        """Note one sentence, with the time; a full disk is told to Prefect and not raised."""
        self._logger.info(sentence)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            self._file.write(f"{now} {sentence}\n".encode())
        except OSError as error:
            self._logger.warning("execute.log is incomplete: %s", error.strerror)

    def move_to_artifacts(self) -> None:
        """See `LogFile.move_to_artifacts`; where that fails, it is tried again at the next."""
        # A disk that is full by now must not replace what the run came to.
        with contextlib.suppress(OSError):
            self._file.move_to_artifacts()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What became of the output: `bytes` seen in all, `dropped_from_ui` of them not told to
    Prefect, `error` (one sentence) where `runner.log` is not whole, and the last lines."""

    bytes: int
    lines: int
    dropped_from_ui: int
    error: str | None
    tail: str


class RunnerLog:
    """`runner.log`: a sink for the container's output that also feeds a `Teller`."""

    def __init__(
        self,
        workspace: Workspace,
        artifacts_subdir: str,
        tell: Callable[[str], None],
        *,
        anew: bool = False,
        masker: Masker | None = None,
    ) -> None:
        """With `anew`, all output comes once more: what is in the file is told already."""
        self._file = workspace.log_file(workspace.runner_log(artifacts_subdir))
        self._masked = (masker or Masker()).stream()
        self._teller = Teller(tell, skip=self._file.start_over() if anew else 0)
        # Of what an earlier process wrote, and nobody can give again.
        self._bytes = self._file.size_bytes
        self._lines = self._file.lines()
        self._error: str | None = None

    def mask_with(self, masker: Masker) -> None:
        """Mask by `masker` from here on; before the first output, no secret can be cut in two."""
        self._let_go()
        self._masked = masker.stream()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes; a full disk is noted and the output still drained."""
        if shown := self._masked.feed(chunk):
            self._keep(shown)

    def _keep(self, chunk: bytes) -> None:
        self._bytes += len(chunk)
        self._lines += chunk.count(b"\n")
        self._teller.write(chunk)
        if self._error is None:
            with self._noted():
                self._file.write(chunk)

    def so_far(self) -> LogFacts:
        """What is known before the container is gone."""
        return LogFacts(self._bytes, self._lines, self._teller.dropped, self._error, self._tail())

    def facts(self) -> LogFacts:
        """What became of the output, which is in the artifacts after this; call it when the
        container has stopped. Nothing is told after this."""
        self._let_go()
        self._teller.finish()
        with self._noted():
            self._file.move_to_artifacts()
        return self.so_far()

    def _let_go(self) -> None:
        """Keep what was held back in case a secret followed."""
        if rest := self._masked.end():
            self._keep(rest)

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = self._error or f"runner.log is incomplete: {error.strerror}"

    def _tail(self, limit: int = 4096) -> str:
        text = _readable(self._file.tail(limit))
        return text.partition("\n")[2] or text if self._bytes > limit else text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()
        self._teller.finish()
        self._file.close()


class Teller:
    """Passes text on in one record a second, leaving out what nobody could read.

    Each record shows the newest output of its second and counts what it leaves out. After the
    total is spent only the very end is told, when `finish` is called.
    """

    def __init__(
        self, tell: Callable[[str], None], every_seconds: float = 1.0, skip: int = 0
    ) -> None:
        """The first `skip` bytes are left out: somebody told them before."""
        self._tell = tell
        self._skip = skip
        self._every_seconds = every_seconds
        self._newest = bytearray()
        self._left_out = 0
        self._told = 0
        self.dropped = 0
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="container output")
        self._thread.start()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes; never blocks for longer than a copy."""
        with self._lock:
            untold = chunk[self._skip :]
            self._skip -= len(chunk) - len(untold)
            self._newest += untold
            surplus = len(self._newest) - _RECORD_BYTES
            if surplus > _RECORD_BYTES:
                self._left_out += surplus
                del self._newest[:surplus]

    def finish(self) -> None:
        """Tell what is still untold, and stop. Safe to call twice."""
        self._finished.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._finished.wait(self._every_seconds):
            if self._told < _TOTAL_BYTES:
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
        self._told += len(record)
        self.dropped += left_out
        note = f"[{left_out} bytes left out here; runner.log has them]\n" if left_out else ""
        self._tell(note + _readable(record).rstrip("\n"))


def _readable(output: bytes) -> str:
    """Text that a database can keep, which takes no NUL."""
    return output.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
