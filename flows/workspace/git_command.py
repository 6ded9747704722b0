"""Run git in a folder, bounded by `ulimit`, a time limit, and how much of its output is kept."""

import asyncio
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flows.errors import ContainerTaskError, RepositoryRejected
from flows.masking import Masker
from flows.payload.repository import Remote
from flows.units import GIB
from flows.workspace.git_access import GitAccess
from flows.workspace.git_environment import git_environment
from flows.workspace.git_failures import git_failure

# More memory, and more bytes of a file, the kernel refuses; without the trap, the signal that tells
# of the latter would kill git before it can say so. A host may have less already.
_BOUNDED = (
    'trap "" XFSZ; ulimit -d "$1" 2> /dev/null; ulimit -f "$2" 2> /dev/null; shift 2; exec git "$@"'
)
_PIECE = 64 * 1024
_KEPT_LINES, _KEPT_OF_A_LINE = 50, 400
# git itself says a line or two. The rest is the server's, which may never come to an end.
_MOST_SAID = 16 * 1024**2
# For what was killed.
_END_SECONDS = 3.0
# What a server wrote. It may be an answer of no git service, which the host can reach and the
# payload's author cannot.
_THEIRS = b"remote:"
Hear = Callable[[bytes], None]
Watch = Callable[[int], None]
_WATCH_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class GitLimits:
    """What one checkout may cost its host, in all its tries: time; and in each: memory of a
    process, bytes on disk, and files."""

    seconds: float = 3600.0
    memory_bytes: int = 4 * GIB
    disk_bytes: int = 100 * GIB
    files: int = 1_000_000

    def within(self, folder: Path) -> "GitLimits":
        """The same where the disk has room; else so much less that others can go on."""
        free = shutil.disk_usage(folder).free * 9 // 10
        return GitLimits(self.seconds, self.memory_bytes, min(self.disk_bytes, free), self.files)


class GitCommand:
    """Runs git in `folder` for what is read from `remote`; where `pinned`, it follows no
    redirection."""

    def __init__(
        self, folder: Path, access: GitAccess, limits: GitLimits, remote: Remote, *, pinned: bool
    ) -> None:
        self.folder = folder
        self.remote = remote
        self.limits = limits
        self.pinned = pinned
        self._environment = git_environment(remote, pinned=pinned, access=access)
        self._masker = Masker(remote.secrets)

    async def __call__(
        self, *arguments: str, hear: Hear | None = None, watch: Watch | None = None
    ) -> str:
        """What git printed, or the first 64 KiB of it where `hear` is not given all of it in
        pieces. Raises as `git_failure` decides, and what `hear` raises, or `watch`, which is told
        meanwhile how many bytes git has written."""
        status, printed, said = await self._run(arguments, {}, hear, watch)
        if status:
            raise git_failure(said, self.remote.display)
        return printed

    async def said(self, *arguments: str, trace: Mapping[str, str]) -> str:
        """The last lines that git said, whatever its end, with a trace as these variables ask."""
        return (await self._run(arguments, trace))[2]

    async def _run(
        self,
        arguments: tuple[str, ...],
        more: Mapping[str, str],
        hear: Hear | None = None,
        watch: Watch | None = None,
    ) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", _BOUNDED, "git"),
            # In the units of a POSIX shell.
            *(str(self.limits.memory_bytes // 1024), str(self.limits.disk_bytes // 512)),
            *arguments,
            cwd=self.folder,
            env={**self._environment, **more},
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
            # Programs refuse configuration and keys that others may write. How the container's
            # user gets at the files is decided when that is known.
            umask=0o022,
        )
        try:
            printed, said = await self._outputs(process, hear, watch)
            status = await process.wait()
        finally:
            await _end(process)
        if status < 0:
            said = f"{said}\nerror: git died of signal {-status}"
        return status, printed, self._masker.text(said)

    async def _outputs(
        self, process: Process, hear: Hear | None, watch: Watch | None
    ) -> tuple[str, str]:
        assert process.stdout is not None
        assert process.stderr is not None
        printed, said = _Beginning(), _LastLines(self.remote.display)
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(_watched(process, watch or _nothing))
                outputs = ((process.stdout, hear or printed.hear), (process.stderr, said.hear))
                await asyncio.wait([tasks.create_task(_read(*each)) for each in outputs])
                watching.cancel()
        except* ContainerTaskError as refusals:
            raise refusals.exceptions[0] from None
        return printed.text(), said.text()


async def _read(stream: asyncio.StreamReader, hear: Hear) -> None:
    while piece := await stream.read(_PIECE):
        hear(piece)


async def _watched(process: Process, watch: Watch) -> None:
    with suppress(OSError):
        # As long as it is there.
        while told := Path(f"/proc/{process.pid}/io").read_text():
            watch(int(told.partition("wchar: ")[2].split()[0]))
            await asyncio.sleep(_WATCH_SECONDS)


async def _end(process: Process) -> None:
    """Kill it and its children where they still run, and wait until they do no more; not for a
    program that left its group, such as a credential helper's, and keeps a pipe open."""
    streams = [each for each in (process.stdout, process.stderr) if each is not None]
    if process.returncode is not None and all(each.at_eof() for each in streams):
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        async with asyncio.timeout(_END_SECONDS):
            # asyncio tells of no end while a pipe has more than was read of it.
            await asyncio.gather(*(_read(each, _nothing) for each in streams))
            await process.wait()
    except TimeoutError:
        process._transport.close()  # type: ignore[attr-defined]


def _nothing(_: object) -> None: ...


class _Beginning:
    def __init__(self) -> None:
        self._kept = b""

    def hear(self, piece: bytes) -> None:
        self._kept = (self._kept + piece)[:_PIECE]

    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")


class _LastLines:
    """The last lines that git said, each cut. Of the other side's, which come as `remote:`, none is
    kept."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._lines: deque[bytes] = deque(maxlen=_KEPT_LINES)
        self._begun = b""
        self._heard = 0

    def hear(self, piece: bytes) -> None:
        self._heard += len(piece)
        if self._heard > _MOST_SAID:
            raise RepositoryRejected(
                f"{self._where} cannot be checked out: its server sends messages without end"
            )
        lines = (self._begun + piece).replace(b"\r", b"\n").split(b"\n")
        self._begun = lines.pop()[:_KEPT_OF_A_LINE]
        self._keep(lines)

    def text(self) -> str:
        self._keep([self._begun])
        return b"\n".join(self._lines).decode("utf-8", "replace")

    def _keep(self, lines: list[bytes]) -> None:
        self._lines.extend(
            line[:_KEPT_OF_A_LINE] for line in lines if line and not line.startswith(_THEIRS)
        )
