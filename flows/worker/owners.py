"""Whether somebody still has a run that has begun: by kernel locks, and by the server's clock.

A worker holds a lock (flock) for its life, which the kernel releases when it dies; a run names the
worker that has it. Runs of pools of the type `process` name no host: theirs is the process with
their id in its environment. No clocks of two machines are compared.
"""

import asyncio
import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote, unquote
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, WorkerStatus
from prefect.exceptions import ObjectNotFound

from flows.runtime.run_states import host_of, worker_of
from flows.workspace.folder import RUNS_FOLDER
from flows.workspace.logs import Logger

# Between the state Running and the moment at which a run takes its lock lie the flow's imports.
_STARTING = timedelta(seconds=20)
# Between a claim and the state Running lie a process's start and its imports; where the worker
# lives, a burst of others as well.
_CLAIMED, _CLAIMED_BY_ONE_THAT_LIVES = timedelta(minutes=3), timedelta(minutes=15)
# What a worker that is told to stop takes to end.
_TURN_SECONDS = 30.0
# Far longer than any run waits for its host.
_KEPT_SECONDS = 30 * 86400.0
_RUN_ID = b"PREFECT__FLOW_RUN_ID="


class NameTaken(Exception):
    """Another worker on this host has the name; `str()` is one sentence for a person."""


@contextmanager
def present(root: Path, worker: str) -> Iterator[None]:
    """Hold the worker's lock for the block. Raises `NameTaken`, or `OSError`."""
    path = _lock_of(root, worker)
    path.parent.mkdir(parents=True, exist_ok=True)
    _forget_old(root, path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NameTaken(
                f"another worker of the name {worker} runs on this host, and nobody could tell "
                "which of them has a run: start each with a --name of its own"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _forget_old(root: Path, folder: Path) -> None:
    """Remove the locks of workers that ended long ago, of whom no run tells any more."""
    for path in folder.iterdir():
        is_old = time.time() - path.stat().st_mtime > _KEPT_SECONDS
        if is_old and is_present(root, unquote(path.name)) is False:
            path.unlink(missing_ok=True)


async def present_in_turn(root: Path, worker: str, logger: Logger) -> ExitStack:
    """Hold it until the value is left, after one of this name that is about to end. Raises
    `NameTaken`."""
    stack, deadline = ExitStack(), time.monotonic() + _TURN_SECONDS
    while True:
        try:
            stack.enter_context(present(root, worker))
        except NameTaken:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.5)
            continue
        except OSError as error:
            # Its runs need the folder as well, and end with a word on it.
            logger.warning("No sweep can tell whether this worker lives: %s", error)
        return stack


def is_present(root: Path, worker: str) -> bool | None:
    """Whether a worker of this name lives on this host; None where none ever did, as far as its
    disk knows."""
    try:
        descriptor = os.open(_lock_of(root, worker), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock_of(root: Path, worker: str) -> Path:
    return root / RUNS_FOLDER / "workers" / quote(worker, safe="")


@dataclass(frozen=True, slots=True)
class Owners:
    """What a sweep knows of those who may have runs of its host.

    `me` is the worker that sweeps, which knows its own; `online` are the workers that the server
    has heard of lately, `processes` the ids of runs that processes on this host are of.
    """

    root: Path
    host: str
    me: str
    now: datetime
    online: frozenset[str]
    processes: frozenset[str]

    def have_lost(self, run: FlowRun, *, is_known: bool) -> bool:
        """Whether nobody has the run, if its lock is free and this process does not carry it.

        `is_known`, that its job is on the disk.
        Of a run of another host, this one cannot tell.
        """
        if run.state is None or str(run.id) in self.processes:
            return False
        name = host_of(run)
        if name is not None and name != self.host:
            return False
        worker, age = worker_of(run), self.now - run.state.timestamp
        if name and worker and worker == self.me:
            return True
        presence = is_present(self.root, worker) if name and worker else None
        if presence is not None:
            return not presence
        if run.state.is_pending():
            is_online = worker in self.online
            return age >= (_CLAIMED_BY_ONE_THAT_LIVES if is_online else _CLAIMED)
        if is_known:
            return age >= _STARTING
        # It came back with an empty disk.
        return name is not None and worker not in self.online and age >= _STARTING


async def owners(
    client: PrefectClient,
    root: Path,
    names: tuple[str, str],
    pools: Collection[str],
    ahead: timedelta,
) -> Owners:
    """As it is now, for the host and worker of these `names`, with the workers of these pools; by a
    clock that is `ahead` of the server's."""
    online = await _online(client, pools)
    processes = await asyncio.to_thread(_processes)
    return Owners(root, *names, await server_time(client) + ahead, online, processes)


async def server_time(client: PrefectClient) -> datetime:
    """The time by the clock of the server, whose states are dated by it."""
    response = await client.request("GET", "/health")
    told = response.headers.get("Date")
    return parsedate_to_datetime(told) if told else datetime.now(UTC)


async def _online(client: PrefectClient, pools: Collection[str]) -> frozenset[str]:
    found: set[str] = set()
    for pool in pools:
        with suppress(ObjectNotFound):
            workers = await client.read_workers_for_work_pool(pool)
            found |= {each.name for each in workers if each.status is WorkerStatus.ONLINE}
    return frozenset(found)


def _processes() -> frozenset[str]:
    """The runs that processes of this user, or of all where this one is root's, are of."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            environment = (folder / "environ").read_bytes().split(b"\0")
            ids = (each.removeprefix(_RUN_ID) for each in environment if each.startswith(_RUN_ID))
            found |= {str(UUID(each.decode())) for each in ids}
    return frozenset(found)
