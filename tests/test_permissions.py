"""Whose the files in a job's folder are, by a look at each."""

import os
from pathlib import Path

import pytest

from flows.workspace.listing import Ownership, ownership
from flows.workspace.tree import MAX_DEPTH, remove_tree
from tests.hosts import deep, need_root

ME = os.geteuid()


@pytest.mark.parametrize(
    ("mode", "found"),
    [
        (0o644, Ownership.OURS),
        (0o400, Ownership.OURS),
        (0o200, Ownership.FOREIGN),
        (0o4755, Ownership.FOREIGN),
    ],
)
def test_a_file_is_the_workers_that_it_may_read_and_that_gives_nobody_rights(
    tmp_path: Path, mode: int, found: Ownership
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    (tmp_path / "folder" / "file").chmod(mode)
    assert ownership(tmp_path, ME) is found


@pytest.mark.parametrize(
    ("mode", "found"),
    [
        (0o2755, Ownership.OURS),
        (0o700, Ownership.OURS),
        (0o555, Ownership.FOREIGN),
        (0, Ownership.FOREIGN),
    ],
)
def test_a_folder_is_the_workers_that_it_may_write_in(
    tmp_path: Path, mode: int, found: Ownership
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(mode)
    assert ownership(tmp_path, ME) is found


def test_what_nobody_reads_or_must_own_to_remove_does_not_count(tmp_path: Path) -> None:
    need_root("gives links and pipes away")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/shadow")
    for name in ("pipe", "link"):
        os.chown(tmp_path / name, 1234, 1234, follow_symlinks=False)
    assert ownership(tmp_path, ME) is Ownership.OURS
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", 1234, -1)
    assert ownership(tmp_path, ME) is Ownership.FOREIGN


def test_a_look_ends_where_there_is_too_much_and_where_it_is_too_deep(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).touch()
    assert ownership(tmp_path, ME, limit=5) is Ownership.OURS
    assert ownership(tmp_path, ME, limit=4) is Ownership.UNSEEN
    assert ownership(tmp_path / "nowhere", ME) is Ownership.OURS
    (tmp_path / "0").unlink()
    (tmp_path / "0").mkdir()
    deep(tmp_path / "0", "n" * 250, 20)
    assert ownership(tmp_path, ME) is Ownership.OURS
    deep(tmp_path / "0", "n", MAX_DEPTH)
    assert ownership(tmp_path, ME) is Ownership.UNSEEN
    # pytest's own removal recurses once a level.
    remove_tree(tmp_path / "0")
