"""Removal of old job folders, by age and by disk use, with all that is known of the jobs.

Whatever else than known jobs lies in `MOONMIND_WORKDIR` stays.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

from blocks.storage import ArtifactStorage
from flows.outputs.upload_plan import pending_uploads
from flows.runtime.store import AttemptStore, Busy, known_jobs
from flows.workspace.folder import REMOVED, RUNS_FOLDER
from flows.workspace.tree import Tree, remove_tree, walk

_REMOVAL_SECONDS = 30.0

_GIB = 1024**3


# Of a sweep, which has more to do.
_MOST_REMOVALS = 200


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
