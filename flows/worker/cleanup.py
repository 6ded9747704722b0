"""Clean-up of a host's disk, which nobody waits for: retry uploads, remove old job folders.

Apart from the sweep: a storage that hangs must keep no run from being taken up. Folders are removed
by age and by disk use, with all that is known of the jobs; what else lies in there stays.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

from blocks.storage import ArtifactStorage, StorageUnreadable
from flows.attempt import Upload
from flows.engine.selection import open_engine
from flows.errors import StorageError
from flows.outputs.upload import FilesGone, files_of, upload
from flows.outputs.upload_plan import UploadJournal, pending_uploads
from flows.report.artifacts import files_artifact
from flows.runtime.collect import remove_left_behind
from flows.runtime.recovery import read_run
from flows.runtime.store import AttemptStore, Busy, known_jobs
from flows.spec import UPLOAD_SECONDS, is_expired
from flows.worker.sweep import SweptHost
from flows.workspace.folder import REMOVED, RUNS_FOLDER
from flows.workspace.tree import Tree, remove_tree, walk

_GIB = 1024**3
# Of a sweep, which has more to do.
_MOST_REMOVALS = 200
_REMOVAL_SECONDS = 30.0
# Before a sweep begins with no further upload.
_UPLOAD_SECONDS = 60.0
_FIRST_TRY = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class EndedJob:
    """`disk_bytes` is what the job's folders occupy, where that counts."""

    job_id: str
    ended_at: datetime
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """How long job folders are kept; None for ever."""

    age: timedelta | None = None
    disk_bytes: int | None = None

    @property
    def keep_all(self) -> bool:
        return self.age is None and self.disk_bytes is None


def rules_of(storage: ArtifactStorage) -> RetentionRules:
    """What the block says."""
    days, gib = storage.keep_days, storage.keep_gib
    return RetentionRules(
        timedelta(days=days) if days is not None else None,
        int(gib * _GIB) if gib is not None else None,
    )


def due(
    jobs: Sequence[EndedJob], rules: RetentionRules, now: datetime
) -> Iterator[tuple[EndedJob, str]]:
    """The jobs to remove, oldest first, each with the reason."""
    left = sum(job.disk_bytes for job in jobs)
    for job in sorted(jobs, key=lambda job: job.ended_at):
        age = now - job.ended_at
        if rules.age is not None and age >= rules.age:
            yield job, f"it ended {age.total_seconds() / 86400:.1f} days ago"
        elif rules.disk_bytes is not None and left > rules.disk_bytes:
            yield job, f"the job folders take {left / _GIB:.1f} GiB"
        else:
            continue
        left -= job.disk_bytes


async def remove_due(
    root: Path,
    stores: Callable[[str], AttemptStore],
    rules: RetentionRules,
    now: datetime,
    may_go: Callable[[AttemptStore], Awaitable[bool]],
    *,
    dry_run: bool,
) -> AsyncIterator[str]:
    """Remove what is due and `may_go`; a sentence for each job, and for what cannot be removed.

    One that is worked on, or still to be uploaded or published, stays in any case.
    """
    if rules.keep_all:
        return
    until = time.monotonic() + _REMOVAL_SECONDS
    jobs = await asyncio.to_thread(_ended_jobs, root, stores, rules, until)
    removed = 0
    for job, why in due(jobs, rules, now):
        if removed >= _MOST_REMOVALS or time.monotonic() > until:
            break
        store = stores(job.job_id)
        try:
            with store.held():
                # One without an attempt was rejected, or never began.
                is_published = all(attempt.published for attempt in store.attempts())
                if not is_published or not await may_go(store):
                    continue
                if not dry_run:
                    await asyncio.to_thread(_remove_job, root, store)
        except Busy:
            continue
        except Exception as error:  # noqa: BLE001 - one job must not keep the others
            yield f"{job.job_id}: its folder could not be removed: {error}"
            continue
        removed += 1
        yield f"{job.job_id}: removed its folder, as {why}"


def _ended_jobs(
    root: Path, stores: Callable[[str], AttemptStore], rules: RetentionRules, until: float
) -> list[EndedJob]:
    pending = {job_id for job_id, _ in pending_uploads(root)}
    jobs = []
    for job_id in known_jobs(root):
        if job_id in pending:
            continue
        store = stores(job_id)
        try:
            with store.held():
                ended_at = store.last_written
                size = 0 if rules.disk_bytes is None else _disk_bytes(root, store, until)
        except (Busy, OSError):
            continue
        jobs.append(EndedJob(job_id, ended_at, size))
    return jobs


def _folders(root: Path, job_id: str) -> Iterator[Path]:
    """All folders of a job: its own, and those that earlier attempts could not be moved from."""
    if os.path.lexists(root / job_id):
        yield root / job_id
    yield from root.glob(f"{job_id}.attempt-*")


def _disk_bytes(root: Path, store: AttemptStore, until: float) -> int:
    """What the job's folders occupy. Measured once, as nothing changes in them any more."""
    note = root / RUNS_FOLDER / f"{store.job_id}.size"
    try:
        if note.stat().st_mtime >= store.last_written.timestamp():
            return int(note.read_text())
    except (FileNotFoundError, ValueError):
        pass
    if time.monotonic() > until:
        # The next sweep comes to it.
        return 0
    size = 0
    for folder in _folders(root, store.job_id):
        with suppress(OSError):
            size += sum(each.disk_bytes for each in walk(Tree(folder)))
    with suppress(OSError):
        note.write_text(str(size))
    return size


def _remove_job(root: Path, store: AttemptStore) -> None:
    for folder in _folders(root, store.job_id):
        aside = root / f"{REMOVED}{store.job_id}-{uuid4().hex[:8]}"
        folder.rename(aside)
        remove_tree(aside)
    store.forget()


async def tidy(host: SweptHost) -> list[str]:
    """Look after what runs left on this host's disk; a sentence for each thing done."""
    done = [sentence async for sentence in _tidy_results(host)]
    if not host.dry_run:
        async with open_engine() as engine:
            done += await remove_left_behind(engine, host.settings)
    return host.log(done)


async def _tidy_results(host: SweptHost) -> AsyncIterator[str]:
    storage = None
    try:
        storage = await ArtifactStorage.in_force()
    except StorageUnreadable as error:
        yield f"results are neither uploaded nor removed: {error}"
    async for sentence in finish_uploads(host, storage):
        yield sentence

    async def may_go(store: AttemptStore) -> bool:
        """Whether nobody will ask for the job's folder any more but people."""
        run, attempt = await read_run(host.client, store.job_id), store.last()
        if run is None or run.state is None:
            return attempt is None or is_expired(attempt.prepared.spec.labels, host.now())
        return run.state.is_final() and (attempt is not None or not run.state.is_crashed())

    root, rules = host.settings.workdir, rules_of(storage) if storage else RetentionRules()
    async for sentence in remove_due(
        root, host.store, rules, host.now(), may_go, dry_run=host.dry_run
    ):
        yield sentence


async def finish_uploads(host: SweptHost, storage: ArtifactStorage | None) -> AsyncIterator[str]:
    """Retry uploads of published attempts, with pauses that double; a sentence for each. Begins
    none after a minute, and none at all where `storage` is not known."""
    until, root = time.monotonic() + _UPLOAD_SECONDS, host.settings.workdir
    for job_id, number in pending_uploads(root):
        if storage is None or time.monotonic() > until:
            return
        store, journal = host.store(job_id), UploadJournal(root, job_id, number)
        try:
            with store.held():
                done = await _finish(host, storage, store, journal)
        except Busy:
            continue
        except Exception as error:  # noqa: BLE001 - one job must not keep the sweep from the others
            done = f"the upload of attempt {number} could not be swept: {error}"
        if done:
            yield f"{job_id}: {done}"


async def _finish(
    host: SweptHost, storage: ArtifactStorage, store: AttemptStore, journal: UploadJournal
) -> str | None:
    attempts = {each.prepared.spec.attempt: each for each in store.attempts()}
    number, attempt = journal.attempt, attempts.get(journal.attempt)
    if attempt is None:
        journal.close()
        return f"forgot the upload of attempt {number}, of which nothing else is known"
    known = journal.read()
    # Whoever publishes it sees to it.
    if not attempt.published or not is_due(known.tries, known.last_try, host.now()):
        return None
    if host.dry_run:
        return f"uploaded the files of attempt {number}"
    if not storage.is_remote:
        journal.close()
        store.put(replace(attempt, upload=None))
        return f"left the files of attempt {number} in their folder: no storage is set any more"
    try:
        files = files_of(attempt.prepared.workspace, number, max(attempts))
        seconds = allowance(known.tries, UPLOAD_SECONDS)
        address = await upload(storage, journal, files, host.logger, seconds)
    except FilesGone as error:
        journal.close()
        store.put(replace(attempt, upload=Upload(storage.url or "", str(error))))
        return f"the files of attempt {number} cannot be uploaded any more: {error}"
    except StorageError as error:
        return f"the files of attempt {number} are still not uploaded: {error}"
    done = replace(attempt, upload=Upload(address))
    store.put(done)
    await host.client.create_artifact(files_artifact(done))
    return f"uploaded the files of attempt {number} to {address}"


def is_due(tries: int, last: datetime | None, now: datetime) -> bool:
    """Whether a sweep tries again: at once after the first try, then ever more seldom."""
    if last is None or tries < 2:
        return True
    return now - last >= min(timedelta(hours=1), _FIRST_TRY * (1 << min(tries - 2, 10)))


def allowance(tries: int, most: float) -> float:
    """Seconds that a sweep gives a try; more each time, so that the longest file gets through."""
    return float(min(most, _FIRST_TRY.total_seconds() * 2 ** min(tries, 10)))
