"""A container in memory, whose program is a function that runs in a thread of its own."""

import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from flows.engine.contract import Sink
from flows.engine.types import ContainerState
from flows.exit_code import KILLED
from flows.spec import ContainerSpec

Program = Callable[["Process"], int | None]
TERMINATED = 128 + signal.SIGTERM


class CommandMissing(Exception):
    """For a program to raise: the image has no such command. The container exits 127."""


class Terminated(BaseException):
    """SIGTERM: the container is being stopped. A program that lets it pass exits 143."""


class Killed(BaseException):
    """SIGKILL: the container has ended; nothing that its program still does counts."""


def succeed(_process: "Process") -> None:
    """A program that says nothing and exits 0."""


class Process:
    """A running container, as the program in it sees it.

    `spec` is what the payload came to; `env` what the process finds in its environment, secrets
    included.
    """

    def __init__(
        self,
        spec: ContainerSpec,
        secrets: Mapping[str, str],
        folders: Mapping[str, Path],
        write: Callable[[bytes], None],
    ) -> None:
        """`folders` has the folder on disk for each mount's target."""
        self.spec = spec
        self.env: Mapping[str, str] = {**spec.env, **secrets}
        self.write = write
        self._folders = folders
        self._signaled = threading.Event()
        self._thawed = threading.Event()
        self._thawed.set()
        self._killed = False

    @property
    def artifacts(self) -> Path:
        """The folder `$ARTIFACT_DIR`."""
        return self.path(self.env["ARTIFACT_DIR"])

    def path(self, inside: str = "") -> Path:
        """Where a path of the container, absolute or from its working directory, is on disk. Raises
        `ValueError` for one outside the mounts: the image itself has no files here."""
        path = PurePosixPath(self.spec.workdir, inside)
        for target, folder in self._folders.items():
            if path.is_relative_to(target):
                return folder / path.relative_to(target)
        mounts = ", ".join(self._folders)
        raise ValueError(f"{path} is in the image, of which there are no files; on disk: {mounts}")

    def print(self, *values: object) -> None:
        """Write a line to the container's output; `write` takes bytes as they are."""
        self.write(" ".join(map(str, values)).encode() + b"\n")

    def sleep(self, seconds: float) -> None:
        """Wait, in no time where the container is stopped: then it raises `Terminated`."""
        is_signaled = self._signaled.wait(seconds)
        self._thawed.wait()
        if is_signaled or self._signaled.is_set():
            self._signaled.clear()
            raise Killed if self._killed else Terminated

    def send(self, signal_number: int) -> None:
        """Interrupt the program's sleep, now or to come."""
        self._killed = self._killed or signal_number == signal.SIGKILL
        self._signaled.set()

    def freeze(self) -> None:
        """Have its next sleep, or the one that it is in, not end before `thaw`."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Let it go on."""
        self._thawed.set()


class FakeContainer:
    """Used from several threads: its program's own, and those of whoever waits and stops. `failure`
    is what its program raised that is no container's way to end."""

    def __init__(
        self, spec: ContainerSpec, secrets: Mapping[str, str], folders: Mapping[str, Path]
    ) -> None:
        self.spec = spec
        self.secrets = secrets
        self.failure: BaseException | None = None
        self._process = Process(spec, secrets, folders, self._write)
        self.state = ContainerState(running=False, exit_code=None, oom_killed=False)
        self._output = bytearray()
        self._sinks: list[Sink] = []
        # Over its state, its output, and who takes that.
        self._lock = threading.RLock()

    def start(self, program: Program) -> None:
        """Run the program in a thread that holds nobody back."""
        self.state = replace(self.state, running=True, started_at=datetime.now(UTC))
        threading.Thread(target=self._run, args=[program], daemon=True).start()

    def terminate(self) -> None:
        """SIGTERM: the program may end by itself."""
        self._process.send(signal.SIGTERM)
        self.unpause()

    def kill(self) -> None:
        """SIGKILL: it has ended, whatever its program does."""
        self._end(KILLED)
        self._process.send(signal.SIGKILL)
        self._process.thaw()

    def pause(self) -> None:
        """Freeze the program where it next sleeps."""
        with self._lock:
            if self.state.running:
                self.state = replace(self.state, paused=True)
                self._process.freeze()

    def unpause(self) -> None:
        """Let the program go on."""
        with self._lock:
            self.state = replace(self.state, paused=False)
            self._process.thaw()

    @contextmanager
    def followed(self, sink: Sink, *, replay: bool) -> Iterator[None]:
        """Have the sink take what is written meanwhile; with `replay`, all that was before."""
        with self._lock:
            if replay:
                sink.write(bytes(self._output))
            self._sinks.append(sink)
        try:
            yield
        finally:
            with self._lock:
                self._sinks.remove(sink)

    def _write(self, text: bytes) -> None:
        with self._lock:
            if not self.state.running:
                raise Killed
            self._output += text
            for sink in self._sinks:
                sink.write(text)

    def _end(self, exit_code: int, *, oom_killed: bool = False) -> None:
        with self._lock:
            if self.state.running:
                now = datetime.now(UTC)
                ended = replace(self.state, running=False, paused=False, finished_at=now)
                self.state = replace(ended, exit_code=exit_code, oom_killed=oom_killed)

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
            if self.state.running:
                self.failure = error
                self._write("".join(traceback.format_exception(error)).encode())
                self._end(1)
