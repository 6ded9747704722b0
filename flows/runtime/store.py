"""A job's attempts in a JSON file, and a flock that tells whether a process works on the job.

Both are in `<MOONMIND_WORKDIR>/.runs`, outside every container's reach. The kernel lets go of the
lock when its process dies, however it dies.
"""

import asyncio
import errno
import fcntl
import glob
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from flows.attempt import RECORD_VERSION, Attempt
from flows.errors import WorkspaceError
from flows.workspace.folder import RUNS_FOLDER
from flows.workspace.safe_open import replacing

_ATTEMPTS = TypeAdapter(tuple[Attempt, ...])
# What a host lacks for a moment.
_PASSES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
# Whether this process runs a job, by its id, and may be about to tell its end.
IsRunning = Callable[[str], bool]


def runs_nothing(job_id: str) -> bool:
    """For a process that runs no job but the one that it asks for."""
    return False


class Busy(Exception):
    """Another process works on this job, or this one runs it elsewhere."""


class RecordUnreadable(WorkspaceError):
    """The attempts of a job cannot be read: another version's, or what a power cut left of them."""


class AttemptStore:
    """The attempts of one job, oldest first, in a file that is written with fsync and rename."""

    def __init__(self, root: Path, job_id: str, is_running: IsRunning = runs_nothing) -> None:
        self.job_id = job_id
        self._is_running = is_running
        self._file = root / RUNS_FOLDER / f"{job_id}.json"
        self._unreadable = root / RUNS_FOLDER / f"{job_id}.json.unreadable"
        self._lock = root / RUNS_FOLDER / f"{job_id}.lock"
        self._over = root / RUNS_FOLDER / f"{job_id}.over"

    def attempts(self) -> tuple[Attempt, ...]:
        """Empty for a job that never got to an attempt. Raises `RecordUnreadable`."""
        try:
            attempts = _ATTEMPTS.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return ()
        except ValidationError:
            attempts = ()
        if not attempts or any(each.version > RECORD_VERSION for each in attempts):
            raise RecordUnreadable(
                f"what this host noted of the run cannot be read ({self._file.name}): another "
                "version of this package wrote it, or the host lost power meanwhile"
            )
        return attempts

    def set_aside(self) -> None:
        """Rename a record that cannot be read; for whoever holds the job's lock."""
        with suppress(FileNotFoundError):
            self._file.rename(self._unreadable)

    @property
    def was_set_aside(self) -> bool:
        """Whether a record of the job could not be read, and nothing was noted since."""
        return self._unreadable.exists() and not self._file.exists()

    def last(self) -> Attempt | None:
        return next(reversed(self.attempts()), None)

    def put(self, attempt: Attempt) -> None:
        """Add an attempt, or replace what was known of it. Raises `WorkspaceError`."""
        known = {each.prepared.spec.attempt: each for each in self.attempts()}
        known[attempt.prepared.spec.attempt] = attempt
        data = _ATTEMPTS.dump_json(tuple(known[number] for number in sorted(known)))
        try:
            self._write(data)
        except OSError:
            # The task may have filled the disk; there is room kept for what must be told of it.
            self._file.with_suffix(".ballast").unlink(missing_ok=True)
            try:
                self._write(data)
            except OSError as error:
                raise WorkspaceError(f"cannot write {self._file}: {error.strerror}") from error

    def _write(self, data: bytes) -> None:
        with replacing(str(self._file), durable=True) as file:
            file.write(data)

    def keep(self, attempt: Attempt, say: Callable[[str], None]) -> Attempt:
        """`put` of what happened, which stands also where there is no room to note it."""
        try:
            self.put(attempt)
        except (WorkspaceError, OSError) as error:
            say(f"What became of {attempt.prepared.spec.name} could not be noted: {error}")
        return attempt

    def close(self, attempt: Attempt) -> Attempt:
        """Mark the attempt as published: all of it has been told."""
        closed = replace(attempt, published=True)
        self.put(closed)
        return closed

    def note_look(self, attempt: int) -> int:
        """Count that what the attempt left is about to be collected; how often it was, so far.

        In a file of its own, to take nothing of the attempts' ballast. Raises `OSError`.
        """
        with self._file.with_suffix(f".looks-{attempt}").open("ab") as file:
            file.write(b".")
            return file.tell()

    def note_over(self) -> None:
        """Note that all is told: no sweep asks again, until somebody works on the job."""
        self._over.touch()

    def note_taken(self) -> None:
        """Note that this host has the job, before anything of it is done; raises `OSError`."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        self._lock.touch(0o600)

    @contextmanager
    def held(self, *, make: bool = False) -> Iterator[None]:
        """Hold the job's lock (flock) for the block; raises `Busy` at once where it is held.

        Without `make`, a job that nobody on this host ever worked on gets no lock file.
        """
        if self._is_running(self.job_id):
            raise Busy(f"this process runs {self.job_id}")
        try:
            if make:
                self._lock.parent.mkdir(parents=True, exist_ok=True)
                self._over.unlink(missing_ok=True)
            flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0)
            descriptor = os.open(self._lock, flags, 0o600)
        except FileNotFoundError:
            yield
            return
        except OSError as error:
            if error.errno in _PASSES:
                raise
            raise WorkspaceError(f"cannot open {self._lock}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_lock(descriptor):
                raise BlockingIOError
            yield
        except BlockingIOError:
            raise Busy(f"another process works on {self.job_id}") from None
        finally:
            os.close(descriptor)

    def _is_lock(self, descriptor: int) -> bool:
        """Whether it is still the job's lock, and not one that was forgotten meanwhile."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._lock.stat())
        except FileNotFoundError:
            return False

    @property
    def last_written(self) -> datetime:
        """When something was last noted of the job. Raises `OSError` where nothing is known."""
        known = self._file if self._file.exists() else self._lock
        return datetime.fromtimestamp(known.stat().st_mtime, UTC)

    def forget(self) -> None:
        """Remove all that is known of the job; for whoever holds its lock."""
        for record in self._file.parent.glob(f"{glob.escape(self.job_id)}.*"):
            if record != self._lock:
                record.unlink(missing_ok=True)
        # Last, so that what could not be removed is tried again.
        self._lock.unlink(missing_ok=True)

    @asynccontextmanager
    async def held_in_turn(self) -> AsyncIterator[None]:
        """Wait for the lock, which a process that outlived its worker may have, and hold it."""
        while True:
            try:
                with self.held(make=True):
                    yield
                    return
            except Busy:
                await asyncio.sleep(0.2)


def open_jobs(root: Path) -> list[str]:
    """The known ones that were not noted as over. Reads the whole folder: for a thread."""
    over, known = set(), []
    for name in _names(root):
        job_id, _, kind = name.rpartition(".")
        if kind == "over":
            over.add(job_id)
        elif kind == "lock":
            known.append(job_id)
    return sorted(job_id for job_id in known if job_id not in over)


def known_jobs(root: Path) -> list[str]:
    """The ids of all jobs that this host ever began to work on and still has."""
    return sorted(name.removesuffix(".lock") for name in _names(root) if name.endswith(".lock"))


def _names(root: Path) -> list[str]:
    try:
        return os.listdir(root / RUNS_FOLDER)
    except FileNotFoundError:
        return []
