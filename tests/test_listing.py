"""What a listing says of a folder that a stranger's container filled."""

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.workspace.listing import Entry, Listing, listing
from flows.workspace.tree import remove_tree
from tests.hosts import as_nobody, deep, nobodys_folder


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
    deep(folder, "level", 1500)
    yield folder
    # pytest's own removal recurses once a level.
    remove_tree(folder)


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
    began = time.thread_time()
    assert listing(tmp_path) == Listing((Entry("sparse", "file", 8 * 1024**4, None),))
    assert time.thread_time() - began < 5


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
