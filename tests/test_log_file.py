"""A log beside a job's folder, and what it finds in its place there in the end."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.workspace.safe_open import LogFile
from flows.workspace.tree import remove_tree
from tests.hosts import deep, need_root


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The one folder that the container sees; what lies beside it is the host's."""
    folder = tmp_path / "job"
    (folder / "artifacts" / "logs").mkdir(parents=True)
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "runner.log").write_bytes(b"precious")
    return folder


def removed(log: Path) -> None:
    log.unlink()


def replaced_by_a_file(log: Path) -> None:
    log.unlink()
    log.write_bytes(b"forged")


def replaced_by_a_link_out(log: Path) -> None:
    log.unlink()
    log.symlink_to(log.parents[3] / "host" / "runner.log")


def replaced_by_a_folder(log: Path) -> None:
    log.unlink()
    (log / "sub").mkdir(parents=True)
    (log / "sub" / "file").write_bytes(b"kept")


def replaced_by_a_pipe(log: Path) -> None:
    log.unlink()
    os.mkfifo(log)


def folder_removed(log: Path) -> None:
    shutil.rmtree(log.parents[1])


def folder_replaced_by_a_file(log: Path) -> None:
    shutil.rmtree(log.parents[1])
    log.parents[1].write_bytes(b"")


def folder_replaced_by_a_link_out(log: Path) -> None:
    shutil.rmtree(log.parent)
    log.parent.symlink_to(log.parents[3] / "host")


def folder_replaced_by_a_dangling_link(log: Path) -> None:
    shutil.rmtree(log.parent)
    log.parent.symlink_to("/nowhere")


@pytest.mark.parametrize(
    "vandalise",
    [
        removed,
        replaced_by_a_file,
        replaced_by_a_link_out,
        replaced_by_a_folder,
        replaced_by_a_pipe,
        folder_removed,
        folder_replaced_by_a_file,
        folder_replaced_by_a_link_out,
        folder_replaced_by_a_dangling_link,
    ],
)
def test_a_log_ends_up_whole_in_its_place(job: Path, vandalise: Callable[[Path], None]) -> None:
    path = job / "artifacts" / "logs" / "runner.log"
    path.touch()
    log = LogFile(job.parent / "live", path, job)
    log.start_over()
    log.write(b"before\n")
    vandalise(path)
    log.write(b"after\n")
    log.move_to_artifacts()
    log.write(b"at the end\n")
    assert log.tail(100) == b"before\nafter\nat the end\n"
    log.close()
    assert not path.is_symlink()
    assert not any(folder.is_symlink() for folder in path.parents if folder.is_relative_to(job))
    assert path.read_bytes() == b"before\nafter\nat the end\n"
    assert (job.parent / "host" / "runner.log").read_bytes() == b"precious"
    assert sorted(os.listdir(job.parent)) == ["host", "job"]


def test_a_folder_in_the_way_is_kept_beside(job: Path) -> None:
    path = job / "artifacts" / "logs" / "runner.log"
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "file").write_bytes(b"kept")
    moved_log(job)
    (moved,) = path.parent.glob("runner.log.*")
    assert (moved / "sub" / "file").read_bytes() == b"kept"


def test_a_folder_in_the_way_may_be_deeper_than_can_be_removed(job: Path) -> None:
    path = job / "artifacts" / "logs" / "runner.log"
    path.mkdir()
    deep(path, "level", 1500)
    moved_log(job)
    assert path.read_bytes() == b"output"
    # pytest's own removal recurses once a level.
    remove_tree(job)


def moved_log(job: Path) -> None:
    log = LogFile(job.parent / "live", job / "artifacts" / "logs" / "runner.log", job)
    log.write(b"output")
    log.move_to_artifacts()
    log.close()


def a_device(log: Path) -> None:
    need_root("makes devices")
    log.unlink()
    os.mknod(log, 0o666 | stat.S_IFCHR, os.makedev(1, 5))


def an_endless_one(log: Path) -> None:
    log.unlink()
    log.parent.joinpath("loop").symlink_to("runner.log")
    log.symlink_to("loop")


@pytest.mark.parametrize(
    "vandalise",
    [
        replaced_by_a_link_out,
        an_endless_one,
        replaced_by_a_folder,
        replaced_by_a_pipe,
        a_device,
        folder_replaced_by_a_file,
        folder_replaced_by_a_link_out,
        folder_removed,
    ],
)
def test_a_log_is_begun_anew_where_a_container_put_something_else(
    job: Path, vandalise: Callable[[Path], None]
) -> None:
    path = job / "artifacts" / "logs" / "runner.log"
    path.touch()
    vandalise(path)
    log = LogFile(job.parent / "live", path, job)
    assert (log.size_bytes, log.lines()) == (0, 0)
    log.write(b"whole\n")
    log.move_to_artifacts()
    log.close()
    assert path.read_bytes() == b"whole\n"
    assert (job.parent / "host" / "runner.log").read_bytes() == b"precious"
    assert sorted(os.listdir(job.parent)) == ["host", "job"]


def test_a_log_is_appended_to_when_opened_again(job: Path) -> None:
    path = job / "artifacts" / "logs" / "execute.log"
    for text in (b"one\n", b"two\n", b"three\n"):
        log = LogFile(job.parent / "live", path, job)
        log.write(text)
        if text == b"two\n":
            log.move_to_artifacts()
        log.close()
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_the_lines_of_a_file_of_terabytes_are_counted_at_once(job: Path) -> None:
    path = job / "artifacts" / "logs" / "runner.log"
    path.write_bytes(b"one\ntwo\n")
    os.truncate(path, 8 * 1024**4)
    with path.open("ab") as file:
        file.write(b"three\n")
    log = LogFile(job.parent / "live", path, job)
    assert log.lines() == 3
    log.close()
