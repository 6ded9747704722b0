"""Files that are put into, or opened in, a folder that a stranger's container has had to itself."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from flows.workspace.safe_open import folder_of, replacing, write_whole
from flows.workspace.tree import Descent, Tree, open_file


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The one folder that the container sees; what lies beside it is the host's."""
    folder = tmp_path / "job"
    (folder / "artifacts" / "logs").mkdir(parents=True)
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "runner.log").write_bytes(b"precious")
    return folder


@pytest.mark.parametrize("in_the_way", ["file", "folder", "link", "linked folder", "nothing"])
def test_writing_whole_makes_a_new_file_whatever_is_in_the_way(job: Path, in_the_way: str) -> None:
    path = job / "artifacts" / "metadata" / "run.json"
    if in_the_way == "linked folder":
        path.parent.symlink_to(job.parent / "host")
    else:
        path.parent.mkdir()
    if in_the_way == "file":
        path.write_text("old")
    elif in_the_way == "folder":
        path.mkdir()
    elif in_the_way == "link":
        path.symlink_to(job.parent / "host" / "runner.log")
    write_whole(path, job, b"{}")
    assert path.read_bytes() == b"{}"
    drafts = [name for name in os.listdir(path.parent) if not (path.parent / name).is_dir()]
    assert drafts == ["run.json"]
    assert sorted(os.listdir(job.parent / "host")) == ["runner.log"]
    assert (job.parent / "host" / "runner.log").read_bytes() == b"precious"


def test_nothing_is_opened_in_a_folder_that_became_a_link_meanwhile(job: Path) -> None:
    path = job / "artifacts" / "logs" / "runner.log"
    descent = Descent(Tree(job))
    descent.folder(("artifacts", "logs"))
    with folder_of(path, job) as folder:
        shutil.rmtree(path.parents[1])
        path.parents[1].symlink_to(job.parent / "host")
        with pytest.raises(FileNotFoundError):
            descent.file(("artifacts", "logs", "runner.log"))
        with pytest.raises(FileNotFoundError), replacing("runner.log", folder):
            pass
    descent.close()
    assert (job.parent / "host" / "runner.log").read_bytes() == b"precious"


def test_what_is_opened_was_got_to_over_no_link(job: Path) -> None:
    (job / "outside").symlink_to(job.parent / "host")
    with pytest.raises(NotADirectoryError):
        open_file(Tree(job), ("outside", "runner.log"))
    descriptor = open_file(Tree(job.parent), ("host", "runner.log"))
    assert os.read(descriptor, 100) == b"precious"
    os.close(descriptor)


def test_a_durable_file_is_on_the_disk_before_its_name_is_and_the_name_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, synced, file = os.fsync, list[tuple[bool, bool]](), tmp_path / "record"

    def note(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), file.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    with replacing(str(file), durable=True) as draft:
        draft.write(b"told")
    assert synced == [(False, False), (True, True)]
