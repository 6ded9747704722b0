"""Which job folders go when, and which never do."""

import os
import stat
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from blocks.storage import ArtifactStorage
from flows.attempt import Attempt
from flows.outputs.upload_plan import UploadJournal
from flows.runtime.store import AttemptStore, known_jobs
from flows.worker.retention import EndedJob, RetentionRules, due, remove_due, rules_of
from flows.workspace.folder import left_behind
from tests.finished import finished

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
MIB = 1024**2


async def yes(_: AttemptStore) -> bool:
    return True


async def no(_: AttemptStore) -> bool:
    return False


def aged(root: Path, days: float, size: int = 0) -> Attempt:
    """A finished job that ended so long ago, with so much in its folder."""
    attempt = finished(root)
    (attempt.prepared.workspace.artifacts / "file").write_bytes(os.urandom(size))
    then = (NOW - timedelta(days=days)).timestamp()
    os.utime(root / ".runs" / f"{attempt.prepared.spec.job_id}.json", (then, then))
    return attempt


async def swept(
    root: Path,
    rules: RetentionRules,
    may_go: Callable[[AttemptStore], Awaitable[bool]] = yes,
    dry_run: bool = False,
) -> list[str]:
    return [
        line
        async for line in remove_due(
            root, partial(AttemptStore, root), rules, NOW, may_go, dry_run=dry_run
        )
    ]


def folders(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} - {".runs"}


def job(attempt: Attempt) -> str:
    return attempt.prepared.spec.job_id


def test_by_default_everything_is_kept() -> None:
    assert rules_of(ArtifactStorage()).keep_all
    assert rules_of(ArtifactStorage(keep_days=2, keep_gib=0.5)) == RetentionRules(
        2 * DAY, 512 * MIB
    )


def test_the_oldest_go_first_and_no_more_than_must() -> None:
    jobs = [EndedJob(name, NOW - days * DAY, 10) for name, days in (("b", 2), ("a", 3), ("c", 1))]
    by_size = [each.job_id for each, _ in due(jobs, RetentionRules(disk_bytes=15), NOW)]
    assert by_size == ["a", "b"]
    by_age = [each.job_id for each, _ in due(jobs, RetentionRules(age=2 * DAY), NOW)]
    assert by_age == ["a", "b"]
    assert [each.job_id for each, _ in due(jobs, RetentionRules(disk_bytes=30), NOW)] == []
    both = [each.job_id for each, _ in due(jobs, RetentionRules(3 * DAY, 20), NOW)]
    assert both == ["a"], "what goes by age counts for the size"


async def test_a_job_goes_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    old, young = aged(tmp_path, 3), aged(tmp_path, 1)
    (tmp_path / f"{job(old)}.attempt-1-0a1b2c3d").mkdir()
    (tmp_path / ".runs" / f"{job(old)}.ballast").touch()
    for stranger in ("notes.txt", ".hidden", "0b5b4b5e-0000-4000-8000-000000000000"):
        (tmp_path / stranger).mkdir()
        os.utime(tmp_path / stranger, (0, 0))
    (line,) = await swept(tmp_path, RetentionRules(age=2 * DAY))
    assert line == f"{job(old)}: removed its folder, as it ended 3.0 days ago"
    assert folders(tmp_path) == {
        job(young),
        "notes.txt",
        ".hidden",
        "0b5b4b5e-0000-4000-8000-000000000000",
    }
    assert known_jobs(tmp_path) == [job(young)]
    assert not [path for path in (tmp_path / ".runs").iterdir() if path.name.startswith(job(old))]


async def test_by_size_what_a_folder_occupies_counts(tmp_path: Path) -> None:
    old, middle, young = (aged(tmp_path, days, MIB) for days in (3, 2, 1))
    with (old.prepared.workspace.artifacts / "sparse").open("wb") as sparse:
        sparse.truncate(1024**4)
    rules = RetentionRules(disk_bytes=int(2.5 * MIB))
    told = await swept(tmp_path, rules)
    assert [line.split(":")[0] for line in told] == [job(old)]
    assert folders(tmp_path) == {job(middle), job(young)}
    assert await swept(tmp_path, rules) == []


@pytest.mark.parametrize("why", ["held", "unpublished", "uploading", "retrying"])
async def test_what_somebody_still_works_on_or_waits_for_stays(tmp_path: Path, why: str) -> None:
    attempt = aged(tmp_path, 9)
    store = AttemptStore(tmp_path, job(attempt))
    if why == "unpublished":
        finished(tmp_path, job_id=job(attempt), attempt=2, published=False)
        os.utime(tmp_path / ".runs" / f"{job(attempt)}.json", (0, 0))
    if why == "uploading":
        UploadJournal(tmp_path, job(attempt), 1).open()
    rules, may_go = RetentionRules(timedelta(0), 0), no if why == "retrying" else yes
    if why == "held":
        with store.held():
            assert await swept(tmp_path, rules, may_go) == []
    else:
        assert await swept(tmp_path, rules, may_go) == []
    assert job(attempt) in folders(tmp_path)
    assert store.last() is not None


async def test_a_dry_run_only_says_what_would_go(tmp_path: Path) -> None:
    attempt = aged(tmp_path, 9)
    (line,) = await swept(tmp_path, RetentionRules(age=DAY), dry_run=True)
    assert line.startswith(f"{job(attempt)}: removed its folder")
    assert job(attempt) in folders(tmp_path)


async def test_a_job_that_never_got_a_folder_is_forgotten_too(tmp_path: Path) -> None:
    store = AttemptStore(tmp_path, "rejected")
    with store.held(make=True):
        pass
    os.utime(tmp_path / ".runs" / "rejected.lock", (0, 0))
    await swept(tmp_path, RetentionRules(age=DAY))
    assert known_jobs(tmp_path) == []


async def test_what_cannot_be_removed_is_out_of_the_way_and_keeps_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = aged(tmp_path, 9), aged(tmp_path, 8)
    # As of a worker that is not root, of a folder that a container left as root's.
    monkeypatch.setattr("flows.worker.retention.remove_tree", lambda path: None)
    assert len(await swept(tmp_path, RetentionRules(age=DAY))) == 2
    assert not {job(one), job(other)} & folders(tmp_path)
    assert {path.name.rpartition("-")[0] for path in left_behind(tmp_path)} == {
        f".removed-{job(one)}",
        f".removed-{job(other)}",
    }


async def test_a_lock_that_was_forgotten_meanwhile_is_held_by_nobody(tmp_path: Path) -> None:
    store = AttemptStore(tmp_path, "job")
    with store.held(make=True):
        inode = os.stat(tmp_path / ".runs" / "job.lock")[stat.ST_INO]
        store.forget()
        async with AttemptStore(tmp_path, "job").held_in_turn():
            assert os.stat(tmp_path / ".runs" / "job.lock")[stat.ST_INO] != inode
