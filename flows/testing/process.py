"""What runs in a fake container: a function, in the place of the image's program."""

import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

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
        self._killed = False

    @property
    def artifacts(self) -> Path:
        """The folder `$ARTIFACT_DIR`."""
        return self.path(self.env["ARTIFACT_DIR"])

    def path(self, inside: str = "") -> Path:
        """Where a path of the container, absolute or from its working directory, is on disk.

        Raises `ValueError` for one outside the mounts: the image itself has no files here.
        """
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
        if self._signaled.wait(seconds):
            self._signaled.clear()
            raise Killed if self._killed else Terminated

    def send(self, signal_number: int) -> None:
        """Interrupt the program's sleep, now or to come."""
        self._killed = self._killed or signal_number == signal.SIGKILL
        self._signaled.set()
