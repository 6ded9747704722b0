"""A container in memory: its output, its end, and the thread that its program runs in."""

import signal
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from flows.engine.contract import Sink
from flows.engine.types import ContainerState
from flows.exit_code import KILLED
from flows.spec import ContainerSpec
from flows.testing.process import TERMINATED, CommandMissing, Killed, Process, Program, Terminated


class FakeContainer:
    """Used from several threads: its program's own, and those of whoever waits and stops.

    `failure` is what its program raised that is no container's way to end.
    """

    def __init__(
        self, spec: ContainerSpec, secrets: Mapping[str, str], folders: Mapping[str, Path]
    ) -> None:
        self.spec = spec
        self.secrets = secrets
        self.failure: BaseException | None = None
        self._process = Process(spec, secrets, folders, self._write)
        self._state = ContainerState(running=False, exit_code=None, oom_killed=False)
        self._output = bytearray()
        self._sinks: list[Sink] = []
        # Over its state, its output, and who takes that.
        self._lock = threading.RLock()

    @property
    def state(self) -> ContainerState:
        """As it is now."""
        return self._state

    def start(self, program: Program) -> None:
        """Run the program in a thread that holds nobody back."""
        self._state = ContainerState(
            running=True, exit_code=None, oom_killed=False, started_at=datetime.now(UTC)
        )
        threading.Thread(target=self._run, args=[program], daemon=True).start()

    def terminate(self) -> None:
        """SIGTERM: the program may end by itself."""
        self._process.send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: it has ended, whatever its program does."""
        self._end(KILLED)
        self._process.send(signal.SIGKILL)

    def follow(self, sink: Sink, *, replay: bool) -> None:
        """Have the sink take what is written from here on; with `replay`, all that was before."""
        with self._lock:
            if replay:
                sink.write(bytes(self._output))
            self._sinks.append(sink)

    def leave(self, sink: Sink) -> None:
        """Have the sink take nothing any more."""
        with self._lock:
            self._sinks.remove(sink)

    def _write(self, text: bytes) -> None:
        with self._lock:
            if not self._state.running:
                raise Killed
            self._output += text
            for sink in self._sinks:
                sink.write(text)

    def _end(self, exit_code: int, *, oom_killed: bool = False) -> None:
        with self._lock:
            if self._state.running:
                self._state = ContainerState(
                    running=False,
                    exit_code=exit_code,
                    oom_killed=oom_killed,
                    started_at=self._state.started_at,
                    finished_at=datetime.now(UTC),
                )

    def _run(self, program: Program) -> None:
        try:
            self._end(program(self._process) or 0)
        except Terminated:
            self._end(TERMINATED)
        except Killed:
            return
        except MemoryError:
            self._end(KILLED, oom_killed=True)
        except CommandMissing:
            self._not_found()
        except BaseException as error:  # noqa: BLE001 - the test's own fault, which hears of it
            self._fail(error)

    def _not_found(self) -> None:
        """As the init process says it that Docker runs the command with."""
        program = (*(self.spec.entrypoint or ()), *self.spec.command)[0]
        words = f"[FATAL tini (7)] exec {program} failed: No such file or directory\n"
        with self._lock, suppress(Killed):
            self._write(words.encode())
        self._end(127)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._state.running:
                self.failure = error
                self._write("".join(traceback.format_exception(error)).encode())
                self._end(1)
