"""Files in a folder that somebody else's container has had to itself."""

import hashlib
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.workspace.listing import Entry, Listing, listing
from flows.workspace.log_file import LogFile
from flows.workspace.safe_open import folder_of, opened_to_append, replacing, write_whole
from flows.workspace.tree import Tree, open_file
from tests.hosts import as_nobody, need_root, nobodys_folder


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The one folder that the container sees; what lies beside it is the host's."""
    folder = tmp_path / "job"
    (folder / "artifacts" / "logs").mkdir(parents=True)
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "runner.log").write_bytes(b"precious")
    return folder


@pytest.fixture
def deep_tree(tmp_path: Path) -> Iterator[Path]:
    """A tree whose paths are longer than the system takes, as a container can make it."""
    folder = tmp_path / "deep"
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("level", dir_fd=descriptor)
        below = os.open("level", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    yield folder
    # pytest's own removal recurses once a level.
    subprocess.run(["rm", "-rf", tmp_path], check=True)


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


def test_a_folder_in_the_way_may_be_deeper_than_can_be_removed(job: Path, deep_tree: Path) -> None:
    path = job / "artifacts" / "logs" / "runner.log"
    deep_tree.rename(path)
    moved_log(job)
    assert path.read_bytes() == b"output"


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


def test_nothing_is_opened_in_a_folder_that_became_a_link_meanwhile(job: Path) -> None:
    path = job / "artifacts" / "logs" / "runner.log"
    with folder_of(path, job) as folder:
        shutil.rmtree(path.parents[1])
        path.parents[1].symlink_to(job.parent / "host")
        with pytest.raises(FileNotFoundError):
            opened_to_append("runner.log", folder)
        with pytest.raises(FileNotFoundError), replacing("runner.log", folder):
            pass
    assert (job.parent / "host" / "runner.log").read_bytes() == b"precious"


def test_a_log_is_appended_to_when_opened_again(job: Path) -> None:
    path = job / "artifacts" / "logs" / "execute.log"
    for text in (b"one\n", b"two\n", b"three\n"):
        log = LogFile(job.parent / "live", path, job)
        log.write(text)
        if text == b"two\n":
            log.move_to_artifacts()
        log.close()
    assert path.read_bytes() == b"one\ntwo\nthree\n"


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


def test_a_listing_has_every_file_with_size_and_checksum(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_bytes(b"abc")
    (tmp_path / "b" / "c" / "zero").touch()
    empty = hashlib.sha256(b"").hexdigest()
    assert list(listing(tmp_path).entries) == [
        Entry("a.txt", "file", 3, hashlib.sha256(b"abc").hexdigest()),
        Entry("b/c/zero", "file", 0, empty),
    ]


def test_a_listing_follows_no_link_and_waits_on_no_pipe(tmp_path: Path, job: Path) -> None:
    folder = job / "artifacts"
    (folder / "away").symlink_to(tmp_path / "host")
    (folder / "file").symlink_to(tmp_path / "host" / "runner.log")
    (folder / "itself").symlink_to(".")
    (folder / "nowhere").symlink_to("/nowhere")
    os.mkfifo(folder / "pipe")
    assert list(listing(folder).entries) == [
        Entry("away", "symlink", 0, None),
        Entry("file", "symlink", 0, None),
        Entry("itself", "symlink", 0, None),
        Entry("nowhere", "symlink", 0, None),
        Entry("pipe", "other", 0, None),
    ]


def test_a_listing_names_sockets_and_opens_none(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        # The path of a socket has room for 107 bytes only.
        listener.bind(f"/proc/self/fd/{folder}/socket")
        assert list(listing(tmp_path).entries) == [Entry("socket", "other", 0, None)]
    os.close(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_listing_names_devices_and_reads_none(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this root may not make devices")
    assert list(listing(tmp_path).entries) == [Entry("zero", "other", 0, None)]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"new\nline", "new\nline"),
        (b"\xff\xfe.bin", "\\xff\\xfe.bin"),
        (b"-rf", "-rf"),
        (b"a|b`c](x)", "a|b`c](x)"),
        ("ü\u202e".encode(), "ü\u202e"),
        (b"x" * 255, "x" * 255),
    ],
)
def test_a_listing_shows_hostile_names_as_text(tmp_path: Path, name: bytes, shown: str) -> None:
    (tmp_path / os.fsdecode(name)).write_bytes(b"abc")
    ((path, size),) = [(entry.path, entry.size_bytes) for entry in listing(tmp_path).entries]
    assert (path, size) == (shown, 3)
    assert path.encode()


def test_a_listing_says_where_a_tree_is_too_deep_to_see(deep_tree: Path) -> None:
    (deep_tree / "z").write_bytes(b"abc")
    top, hidden = listing(deep_tree).entries
    assert top.path == "z"
    assert (hidden.kind, hidden.sha256) == ("other", None)
    assert hidden.path.startswith("level/level/")


def test_a_listing_hashes_no_more_than_its_budget(tmp_path: Path) -> None:
    for name, size in (("a", 6), ("b", 5), ("c", 4), ("d", 0)):
        (tmp_path / name).write_bytes(b"x" * size)
    hashed = {e.path: e.sha256 is not None for e in listing(tmp_path, max_hashed_bytes=10).entries}
    assert hashed == {"a": True, "b": False, "c": True, "d": True}


def test_a_file_of_terabytes_without_a_byte_in_it_is_listed_at_once(tmp_path: Path) -> None:
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 8 * 1024**4)
    began = time.monotonic()
    assert listing(tmp_path) == Listing((Entry("sparse", "file", 8 * 1024**4, None),))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("limit", "listed", "left_out"), [(9, 7, 0), (8, 6, 1), (5, 3, 4), (3, 1, 6), (0, 0, 3)]
)
def test_a_listing_has_a_limit_and_counts_what_is_beyond(
    tmp_path: Path, limit: int, listed: int, left_out: int
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for path in ("a", *(f"{folder}/{name}" for folder in ("one", "two") for name in "bcd")):
        (tmp_path / path).touch()
    found = listing(tmp_path, max_entries=limit)
    assert (len(found.entries), found.left_out) == (listed, left_out)


def test_a_listing_names_what_this_user_may_not_read() -> None:
    with nobodys_folder() as folder:
        (folder / "folder").mkdir(mode=0)
        (folder / "secret").touch(mode=0)
        with as_nobody():
            entries = listing(folder).entries
    assert [(entry.path, entry.sha256) for entry in entries] == [("secret", None), ("folder", None)]


def test_a_listing_does_not_begin_at_a_link(job: Path) -> None:
    (job / "outside").symlink_to(job.parent / "host")
    assert listing(job / "outside").entries == (Entry(".", "other", 0, None),)


def test_what_is_opened_was_got_to_over_no_link(job: Path) -> None:
    (job / "outside").symlink_to(job.parent / "host")
    with pytest.raises(NotADirectoryError):
        open_file(Tree(job), ("outside", "runner.log"))
    descriptor = open_file(Tree(job.parent), ("host", "runner.log"))
    assert os.read(descriptor, 100) == b"precious"
    os.close(descriptor)


def test_the_lines_of_a_file_of_terabytes_are_counted_at_once(job: Path) -> None:
    path = job / "artifacts" / "logs" / "runner.log"
    path.write_bytes(b"one\ntwo\n")
    os.truncate(path, 8 * 1024**4)
    with path.open("ab") as file:
        file.write(b"three\n")
    log = LogFile(job.parent / "live", path, job)
    assert log.lines() == 3
    log.close()
