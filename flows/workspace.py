"""One job's folder on disk: made, filled with a checkout, inspected, removed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from flows.errors import WorkdirMissing, WorkspaceError
from flows.files import Listing, listing, write_whole
from flows.rules import JOB_ROOT
from flows.spec import ContainerSpec, Mount


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder of one job, as the worker sees it and as the container will.

    `root` is `MOONMIND_WORKDIR`; `volume` the named volume that `root` lies in, or empty where
    the engine sees the same paths as this process.
    """

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
        """What the run leaves for people."""
        return self.folder / "artifacts"

    @property
    def execute_log(self) -> Path:
        """What the stages did."""
        return self.artifacts / "logs" / "execute.log"

    def runner_log(self, artifacts_subdir: str) -> Path:
        """The container's stdout and stderr."""
        return self.artifacts / artifacts_subdir / "logs" / "runner.log"

    def run_json(self, artifacts_subdir: str) -> Path:
        """How the run went."""
        return self.artifacts / artifacts_subdir / "metadata" / "run.json"

    @property
    def mount(self) -> Mount:
        """How the container gets this folder, and no other job's."""
        target = f"{JOB_ROOT}/{self.job_id}"
        if self.volume:
            return Mount("volume", self.volume, target, subpath=self.job_id)
        return Mount("bind", str(self.folder), target)

    def create(self, artifacts_subdir: str) -> None:
        """Make the folder anew; the container's user may write in it, whoever that is.

        Raises `WorkspaceError` naming the path and the reason.
        """
        with self._explained("cannot make the job folder"):
            if not self.root.exists():
                self.root.mkdir(parents=True, mode=0o711)
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            for folder in (
                self.repo,
                self.execute_log.parent,
                self.runner_log(artifacts_subdir).parent,
                self.run_json(artifacts_subdir).parent,
            ):
                folder.mkdir(parents=True, exist_ok=True)
            for path, _, _ in os.walk(self.folder):
                # Images choose their own user. Other jobs cannot get here: each container is
                # shown its own folder only.
                os.chmod(path, 0o777)

    def require_workdir(self, spec: ContainerSpec) -> None:
        """Raise `WorkdirMissing` where the spec's workdir is to be in this folder and is not."""
        try:
            inside = PurePosixPath(spec.workdir).relative_to(self.mount.target)
        except ValueError:
            return
        found = (self.folder / inside).resolve()
        if not (found.is_dir() and found.is_relative_to(self.folder.resolve())):
            raise WorkdirMissing(
                f"task.container.workdir: there is no folder {spec.workdir} in the job's folder "
                "after the checkout; correct it, or leave it out to start in the repository"
            )

    def listing(self) -> Listing:
        """What the run left in `artifacts/`, but for the files this runner still writes."""
        found = listing(self.artifacts)
        own = {"logs/execute.log"}
        return replace(found, entries=tuple(e for e in found.entries if e.path not in own))

    def write_run_json(self, artifacts_subdir: str, text: str) -> Path:
        """Write the metadata file and return its path."""
        path = self.run_json(artifacts_subdir)
        write_whole(path, self.folder, text.encode())
        return path

    def remove(self) -> None:
        """Remove the folder and all in it; nothing to remove is no error."""
        with self._explained("cannot remove the job folder"):
            if self.folder.exists():
                shutil.rmtree(self.folder)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WorkspaceError(
                f"{what} {self.folder}: {error.strerror or error}; MOONMIND_WORKDIR must name a "
                "folder that the worker may write to and that has space"
            ) from error
