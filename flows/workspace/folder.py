"""One job's folder on disk: mkdir, run.json, listing, rename of an earlier attempt's, removal."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from uuid import uuid4

from flows.errors import WorkdirMissing, WorkspaceError
from flows.spec import JOB_ROOT, ContainerSpec, Mount
from flows.workspace.listing import Listing, listing
from flows.workspace.safe_open import (
    LogFile,
    folder_of,
    free_name,
    is_folder,
    move_aside,
    move_into,
    move_log,
    write_whole,
)
from flows.workspace.tree import remove_tree

# Room for a run.json that lists a thousand files.
_BALLAST_BYTES = 256 * 1024
REMOVED = ".removed-"
RUNS_FOLDER = ".runs"


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder of one job. `root` is `MOONMIND_WORKDIR`; `volume` the named volume that it lies
    in, or empty where the engine sees the same paths as this process."""

    root: Path
    job_id: str
    volume: str = ""

    @property
    def folder(self) -> Path:
        """`<MOONMIND_WORKDIR>/<job_id>`."""
        return self.root / self.job_id

    @property
    def repo(self) -> Path:
        """The checkout; empty where the payload names no repository."""
        return self.folder / "repo"

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def execute_log(self) -> Path:
        return self.artifacts / "logs" / "execute.log"

    def runner_log(self, artifacts_subdir: str) -> Path:
        """The container's stdout and stderr."""
        return self.artifacts / artifacts_subdir / "logs" / "runner.log"

    def run_json(self, artifacts_subdir: str) -> Path:
        return self.artifacts / artifacts_subdir / "metadata" / "run.json"

    def log_file(self, path: Path) -> LogFile:
        """The log that is at `path` once the container has stopped, opened. Raises `OSError`."""
        return LogFile(self._runs_file(path.name), path, self.folder)

    def move_into_place(self, artifacts_subdir: str) -> None:
        """Rename what no container is to reach from `.runs` into the job's folder: the logs, and
        the results of earlier attempts, as `attempts/`.

        For a container that has stopped. What cannot be moved stays for the next call.
        """
        self._move_logs(artifacts_subdir)
        if self._earlier_results.exists():
            with suppress(OSError):
                move_into(self._earlier_results, self.folder / "attempts", self.folder)

    def earlier_results(self, attempt: int) -> Path | None:
        """The folder with the results of an earlier attempt, or None where it is not here."""
        kept = (self._earlier_results, self.folder / "attempts")
        places = (folder / str(attempt) for folder in kept if is_folder(folder))
        return next(filter(is_folder, places), None)

    @property
    def mount(self) -> Mount:
        """How the container gets this folder, and no other job's."""
        target = f"{JOB_ROOT}/{self.job_id}"
        if self.volume:
            return Mount("volume", self.volume, target, subpath=self.job_id)
        return Mount("bind", str(self.folder), target)

    def create(self, artifacts_subdir: str, earlier_attempt: int | None = None) -> None:
        """Make the folder anew; the container's user may write in it, whoever that is.

        `artifacts/` of an earlier attempt is kept in `.runs`, where this one's container does not
        reach it, until `move_into_place`; the rest of that attempt's folder is removed. Raises
        `WorkspaceError` naming the path and the reason.
        """
        with self._explained("cannot make the job folder"):
            self._make_root()
            self._move_logs(artifacts_subdir)
            self._set_logs_aside(earlier_attempt)
            self._reserve()
            earlier = self._set_aside(earlier_attempt)
            self.folder.mkdir()
            for folder in (
                self.repo,
                self.execute_log.parent,
                self.runner_log(artifacts_subdir).parent,
                self.run_json(artifacts_subdir).parent,
            ):
                folder.mkdir(parents=True, exist_ok=True)
            for path, _, _ in os.walk(self.folder):
                # Images choose their own user. Nobody else gets here: other containers are shown
                # their own folder only, and the root is closed to the host's other users.
                os.chmod(path, 0o777)
            if earlier:
                self._keep_results(earlier, earlier_attempt)

    def require_workdir(self, spec: ContainerSpec) -> None:
        """Raise `WorkdirMissing` where the spec's workdir is to be in this folder and is not."""
        try:
            inside = PurePosixPath(spec.workdir).relative_to(self.mount.target)
        except ValueError:
            return
        try:
            found = (self.folder / inside).resolve()
            is_there = found.is_dir() and found.is_relative_to(self.folder.resolve())
        except (OSError, RuntimeError):
            # A name that no file system takes, or links that lead in a circle.
            is_there = False
        if not is_there:
            raise WorkdirMissing(
                f"task.container.workdir: there is no folder {spec.workdir} in the job's folder "
                "after the checkout; correct it, or leave it out to start in the repository"
            )

    def now_ns(self) -> int:
        """The time by the file system's clock, which may be a server's; raises `WorkspaceError`."""
        with (
            self._explained("cannot make a file beside the job folder"),
            TemporaryFile(dir=self.root) as file,
        ):
            return os.fstat(file.fileno()).st_ctime_ns

    def listing(self) -> Listing:
        """What the run left in `artifacts/`, but for the journal, which is still written."""
        found = listing(self.artifacts)
        kept = tuple(each for each in found.entries if each.path != "logs/execute.log")
        return replace(found, entries=kept)

    def write_run_json(self, artifacts_subdir: str, text: str) -> Path:
        """Write run.json, also on a full disk; return its path. Raises `WorkspaceError`."""
        with self._explained("cannot write run.json in the job folder"):
            self._ballast.unlink(missing_ok=True)
        return self._write_whole(self.run_json(artifacts_subdir), text)

    def write_picture(self, artifacts_subdir: str, text: str) -> Path:
        """Write `usage.svg` beside run.json and return its path. Raises `WorkspaceError`."""
        return self._write_whole(self.run_json(artifacts_subdir).with_name("usage.svg"), text)

    def move_aside(self, artifacts_subdir: str, name: str) -> None:
        """Rename what is at `name` beside run.json, if anything is. Raises `WorkspaceError`."""
        path = self.run_json(artifacts_subdir).with_name(name)
        with (
            self._explained(f"cannot rename {name}, which the task made, in the job folder"),
            folder_of(path, self.folder, clearing=True) as folder,
        ):
            move_aside(name, folder)

    def remove(self) -> None:
        """Remove the folder and all in it, if it is there.

        What this process may not remove is renamed, and tried again with the next removal.
        """
        with self._explained("cannot remove the job folder"):
            self._unlink_runs_files()
            for folder in (self._earlier_results, self.folder):
                if os.path.lexists(folder):
                    self._remove_renamed(folder)

    def _write_whole(self, path: Path, text: str) -> Path:
        with self._explained(f"cannot write {path.name} in the job folder"):
            write_whole(path, self.folder, text.encode())
        return path

    @property
    def _ballast(self) -> Path:
        """Space that the container cannot fill."""
        return self._runs_file("ballast")

    @property
    def _earlier_results(self) -> Path:
        """A folder with the results of each earlier attempt, by its number."""
        return self._runs_file("attempts")

    def _runs_file(self, name: str) -> Path:
        """A file about the job where no container reaches; it goes when the job is forgotten."""
        return self.root / RUNS_FOLDER / f"{self.job_id}.{name}"

    def _move_logs(self, artifacts_subdir: str) -> None:
        for path in (self.execute_log, self.runner_log(artifacts_subdir)):
            with suppress(OSError):
                move_log(self._runs_file(path.name), path, self.folder)

    def _unlink_runs_files(self) -> None:
        for name in ("ballast", "execute.log", "runner.log"):
            self._runs_file(name).unlink(missing_ok=True)

    def _set_logs_aside(self, attempt: int | None) -> None:
        """Keep logs that could not be moved to an earlier attempt's artifacts, in `.runs`."""
        for name in ("execute.log", "runner.log"):
            with suppress(FileNotFoundError):
                aside = f"{attempt or 'earlier'}.{uuid4().hex[:8]}.{name}"
                self._runs_file(name).rename(self._runs_file(aside))

    def _make_root(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = self.root.stat()
        if found.st_mode & stat.S_ISVTX:
            # /tmp, for instance: closing it would break the host.
            raise WorkspaceError(
                f"{self.root} is a folder that the users of the host share: name one of the "
                "worker's own in MOONMIND_WORKDIR, or close this one (chmod 0700) where nobody "
                "else uses it"
            )
        if found.st_uid == os.geteuid() and found.st_mode & 0o007:
            # A container's root may leave programs here that make any user root who runs them.
            self.root.chmod(stat.S_IMODE(found.st_mode) & ~0o007)

    def _reserve(self) -> None:
        self._ballast.parent.mkdir(exist_ok=True, mode=0o700)
        try:
            # Noise, as some file systems store nothing for zeros.
            self._ballast.write_bytes(os.urandom(_BALLAST_BYTES))
        except OSError:
            self._ballast.unlink(missing_ok=True)
            raise

    def _set_aside(self, attempt: int | None) -> Path | None:
        aside = self.root / f"{self.job_id}.attempt-{attempt or 'earlier'}-{uuid4().hex[:8]}"
        try:
            # Beside itself, which works whoever owns it: to move a folder into another one, one
            # must have the right to write in it.
            return self.folder.rename(aside)
        except FileNotFoundError:
            return None

    def _keep_results(self, earlier: Path, attempt: int | None) -> None:
        """Move the results out of an earlier attempt's folder, and remove that if it worked."""
        attempts, results = self._earlier_results, earlier / "artifacts"
        try:
            # Before a second attempt, the runner makes none.
            is_ours = attempt is None or attempt > 1
            if is_ours and not attempts.exists() and is_folder(earlier / "attempts"):
                (earlier / "attempts").rename(attempts)
            attempts.mkdir(exist_ok=True, mode=0o700)
            if is_folder(results):
                place = attempts / str(attempt or "earlier")
                results.rename(free_name(str(place)) if os.path.lexists(place) else place)
        except OSError:
            return
        self._remove_renamed(earlier)

    def _remove_renamed(self, folder: Path) -> None:
        """Remove `folder`, and what earlier removals had to leave."""
        folder.rename(self.root / f"{REMOVED}{self.job_id}-{uuid4().hex[:8]}")
        for removed in left_behind(self.root):
            remove_tree(removed)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WorkspaceError(
                f"{what} {self.folder}: {error.strerror or error}; MOONMIND_WORKDIR must name a "
                "folder that the worker may write to and that has space"
            ) from error


def left_behind(root: Path) -> list[Path]:
    """What removals had to leave, because a container had made it somebody else's."""
    hexadecimal = "[0-9a-f]" * 8
    return list(root.glob(f"{REMOVED}*-{hexadecimal}"))
