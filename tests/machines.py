"""Hosts of a pool, on one machine: each with an engine, a disk, a worker and ways of its own.

    with Machine("one", folder / "one", stack) as one, Machine("two", folder / "two", stack) as two:
        one.start_worker()
        with one.api.refusing(): ...        cut off from Prefect's server
        with one.docker.hanging(): ...      its engine does not answer
        one.kill_worker()                   SIGKILL; its containers run on
        one.die()                           a power cut: worker, engine and containers
        one.come_back(is_empty=True)        as a new host of its name

`folder` is to be short, as `tempfile.mkdtemp()` makes it: sockets are in it. `one.weather` submits
and looks at what is on its disk.
"""

import contextlib
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from scripts.stack import KIND, POOL, Stack
from tests.gateway import Gateway
from tests.own_engine import OwnEngine
from tests.weather import Weather


class Machine:
    """A host named `name`; its worker reaches the server by `api` and its engine by `docker`."""

    def __init__(
        self,
        name: str,
        folder: Path,
        stack: Stack,
        *,
        pool: str = POOL,
        limit: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`settings` are further ones of its worker, such as MOONMIND_HOST_PATIENCE_SECONDS."""
        (folder / "engine").mkdir(parents=True)
        self.name = name
        self.jobs = folder / "agent_jobs"
        self.engine = OwnEngine(folder / "engine")
        self.api = Gateway(stack.address)
        self.docker = Gateway(self.engine.url, at=folder / "docker.sock")
        self.weather = Weather(stack, pool, self.jobs)
        self._stack, self._pool, self._limit = stack, pool, limit
        self._settings = dict(settings or {})
        self._stay = contextlib.ExitStack()
        self.worker_since = 0.0

    def __enter__(self) -> Self:
        for each in (self.engine, self.api, self.docker):
            self._stay.enter_context(each)
        return self

    def __exit__(self, *_: object) -> None:
        if self.has_worker:
            self._stack.stop(self.name)
        self._stay.close()

    @property
    def has_worker(self) -> bool:
        """Whether one was started and neither stopped nor killed; it may have ended by itself."""
        return self._stack.is_running(self.name)

    @property
    def worker_exit_code(self) -> int | None:
        """Of one that ended by itself; None as long as it runs, and where there is none."""
        return self._stack.process(self.name).poll() if self.has_worker else None

    @property
    def worker_pid(self) -> int:
        return self._stack.process(self.name).pid

    @property
    def log(self) -> Path:
        """What its workers wrote."""
        return self._stack.log(self.name)

    def forget_worker(self) -> None:
        """One that ended by itself."""
        self._stack.forget(self.name)

    def start_worker(self, *, is_awaited: bool = True) -> None:
        """Start one; it is awaited until the server has heard from it."""
        settings = {
            "PREFECT_API_URL": f"{self.api.http}/api",
            "DOCKER_HOST": self.docker.url,
            "MOONMIND_WORKDIR": str(self.jobs),
            "MOONMIND_WORKER_NAME": self.name,
            **self._settings,
        }
        self.worker_since = time.monotonic()
        self._stack.start_worker(
            self._pool, KIND, self._limit, settings, process=self.name, is_awaited=is_awaited
        )

    def stop_worker(self) -> None:
        """SIGTERM, and wait for its end."""
        self._stack.stop(self.name)

    def kill_worker(self) -> None:
        """SIGKILL."""
        process = self._stack.process(self.name)
        process.kill()
        process.wait()
        self._stack.forget(self.name)

    def die(self) -> None:
        """Worker, engine and containers, all at once."""
        worker = self._stack.process(self.name)
        worker.kill()
        self.engine.kill_all()
        worker.wait()
        self._stack.forget(self.name)

    def come_back(self, *, is_empty: bool = False, is_awaited: bool = True) -> None:
        """After `die`: engine and worker; with an empty disk, as a new host of this name."""
        self.engine.start()
        if is_empty:
            self.empty_disk()
        self.start_worker(is_awaited=is_awaited)

    def empty_disk(self) -> None:
        """Remove all that jobs left, on disk and on its engine; while no worker runs."""
        shutil.rmtree(self.jobs, ignore_errors=True)
        if containers := self._listed("ps", "--all"):
            self.engine.docker("rm", "--force", *containers)
        if volumes := self._listed("volume", "ls"):
            self.engine.docker("volume", "rm", "--force", *volumes)

    def left(self) -> list[str]:
        """Containers, volumes and networks on its engine that carry a job's label."""
        kinds = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return [name for kind in kinds for name in self._listed(*kind)]

    def _listed(self, *kind: str) -> list[str]:
        wanted = ("--quiet", "--filter", "label=moonmind.job_id")
        return self.engine.docker(*kind, *wanted).split()
