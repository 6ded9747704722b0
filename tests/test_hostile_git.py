"""Git servers that break, move, never end, or send what grows: in bounds, and in a sentence."""

import asyncio
import os
import signal
import socket
import subprocess
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from flows.errors import RepositoryRejected, WorkspaceError
from flows.payload.repository import Remote
from flows.workspace.git import checkout
from flows.workspace.git_command import GitLimits
from flows.workspace.git_failures import git_failure
from tests.git_server import PASSWORD, USER, commit_all, git, git_daemon, git_http
from tests.hosts import disk

MIB = 1024**2
LOGIN = f"{USER}:{quote(PASSWORD, safe='')}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def commit(base: Path) -> str:
    folder = base / "team" / "game.git"
    folder.mkdir(parents=True)
    (folder / "run.sh").write_text("echo served\n")
    return commit_all(folder, "Served")


@pytest.fixture(scope="module")
def daemon(base: Path, commit: str) -> Iterator[str]:
    with git_daemon(base) as address:
        yield address


def first(*statuses: int) -> Callable[[str], tuple[int, Mapping[str, str]] | None]:
    """Answers with these, one after the other, and then no more."""
    left = list(statuses)
    return lambda _: (left.pop(0), {}) if left else None


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_server_that_is_out_of_order_for_a_moment_is_asked_again(
    base: Path, commit: str, tmp_path: Path, status: int
) -> None:
    told: list[str] = []
    with git_http(base, first(status, status)) as server:
        remote = Remote.parse(f"http://{LOGIN}@{server}/team/game.git")
        found = await checkout(remote, "main", tmp_path, pauses=(0.01, 0.01), say=told.append)
    assert found == commit
    assert len(told) == 2
    assert f"returned error: {status}" in told[0]
    assert "tried again in 0.01 s" in told[0]


async def test_a_server_that_stays_out_of_order_is_told_when_the_tries_are_over(
    base: Path, commit: str, tmp_path: Path
) -> None:
    with git_http(base, lambda _: (503, {})) as server:
        remote = Remote.parse(f"http://{LOGIN}@{server}/team/game.git")
        with pytest.raises(WorkspaceError, match="error: 503; its server is overloaded"):
            await checkout(remote, "main", tmp_path, pauses=(0.01,))


async def test_what_does_not_pass_is_not_tried_again(
    base: Path, commit: str, tmp_path: Path
) -> None:
    with git_http(base) as server, pytest.raises(RepositoryRejected):
        await checkout(
            Remote.parse(f"http://{server}/team/game.git"), "main", tmp_path, pauses=(3600,)
        )


async def test_a_cancellation_does_not_wait_for_the_next_try(base: Path, tmp_path: Path) -> None:
    told = asyncio.Event()
    with git_http(base, lambda _: (503, {})) as server:
        remote = Remote.parse(f"http://{LOGIN}@{server}/team/game.git")
        running = asyncio.create_task(
            checkout(remote, None, tmp_path, pauses=(3600,), say=lambda _: told.set())
        )
        async with asyncio.timeout(60):
            await told.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running


async def test_a_cancellation_does_not_wait_for_a_program_that_left_gits_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh, left, folder = tmp_path / "ssh", tmp_path / "left", tmp_path / "folder"
    folder.mkdir()
    leave = f"echo $$ > {left}.new; mv {left}.new {left}; exec sleep 600"
    ssh.write_text(f"#!/bin/sh\nsetsid sh -c '{leave}' &\nwait\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    running = asyncio.create_task(checkout(Remote.parse("ssh://git@a.invalid/x"), None, folder))
    async with asyncio.timeout(60):
        while not left.exists():
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    os.kill(int(left.read_text()), signal.SIGKILL)


# The status, type and pieces of the answer to a path and what was sent there.
Answer = Callable[[str, bytes], tuple[int, str, Iterator[bytes]]]


@contextmanager
def answering(body: Answer) -> Iterator[str]:
    """An HTTP server that answers as `body` says; yields a repository's address there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, kind, pieces = body(self.path, asked)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            try:
                for piece in pieces:
                    self.wfile.write(piece)
            except OSError:
                # git has gone, as it should.
                return

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/game.git"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def packet(data: bytes) -> bytes:
    return b"%04x" % (len(data) + 4) + data


def talking(piece: bytes, times: int) -> Answer:
    """A git service that sends `piece` in place of a pack, as a message, so many times."""
    refs = b"1" * 40 + b" HEAD\0side-band-64k shallow allow-reachable-sha1-in-want\n"

    def answer(path: str, asked: bytes) -> tuple[int, str, Iterator[bytes]]:
        if "/info/refs" in path:
            head = packet(b"# service=git-upload-pack\n") + b"0000" + packet(refs) + b"0000"
            return 200, "application/x-git-upload-pack-advertisement", iter([head])
        shallow = packet(b"shallow " + b"1" * 40) + b"0000"
        told = [packet(b"NAK\n"), *([packet(b"\2" + piece)] * times)] if b"done" in asked else []
        return 200, "application/x-git-upload-pack-result", iter([shallow, *told])

    return answer


@pytest.mark.parametrize("piece", [b"x" * 65000, b"fatal: y\n" * 7000], ids=["one line", "lines"])
async def test_messages_without_end_neither_fill_the_memory_nor_the_error(
    tmp_path: Path, piece: bytes
) -> None:
    with answering(talking(piece, 800)) as url:
        tracemalloc.start()
        try:
            with pytest.raises((RepositoryRejected, WorkspaceError)) as raised:
                await checkout(Remote.parse(url), None, tmp_path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 8 * MIB
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("status", [200, 401, 403, 404, 500])
async def test_an_answer_of_what_is_no_git_service_is_not_told(tmp_path: Path, status: int) -> None:
    body = b"fatal: error: the-internal-secret not found\n"
    with (
        answering(lambda *_: (status, "text/plain", iter([body]))) as url,
        pytest.raises((RepositoryRejected, WorkspaceError)) as raised,
    ):
        await checkout(Remote.parse(url), None, tmp_path)
    assert "internal-secret" not in str(raised.value)


async def test_four_letters_of_what_is_no_git_service_are_not_told_either(tmp_path: Path) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR secret\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(RepositoryRejected, match="no git service") as raised:
            await checkout(Remote.parse(f"git://127.0.0.1:{port}/x"), None, tmp_path)
    assert "-ERR" not in str(raised.value)


def zeros(base: Path, name: str, megabytes: int) -> None:
    """A repository with one file of zeros, whose pack is a thousandth of that."""
    folder = base / name
    folder.mkdir()
    with (folder / "zeros").open("wb") as file:
        file.truncate(megabytes * MIB)
    commit_all(folder, "Zeros")
    (folder / "zeros").unlink()


def folders_in_folders(base: Path, name: str) -> None:
    """A repository of a few kilobytes whose commit has 30 ** 6 files."""
    folder = base / name
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "file").write_text("x\n")
    entry = f"100644 blob {git(folder, 'hash-object', '-w', 'file')}"
    for _ in range(6):
        lines = "".join(f"{entry}\tn{i:02}\n" for i in range(30))
        made = subprocess.run(
            ["git", "mktree"], cwd=folder, input=lines, capture_output=True, text=True, check=True
        )
        entry = f"040000 tree {made.stdout.strip()}"
    commit = git(folder, "commit-tree", entry.split()[-1], "-m", "Folders")
    git(folder, "update-ref", "refs/heads/main", commit)


@pytest.mark.parametrize(
    ("make", "limits", "sentence"),
    [
        (lambda base, name: zeros(base, name, 64), GitLimits(disk_bytes=16 * MIB), "16 MiB"),
        (folders_in_folders, GitLimits(), "1,000,000 files"),
        (
            lambda base, name: zeros(base, name, 300),
            GitLimits(memory_bytes=128 * MIB),
            "memory",
        ),
    ],
    ids=["a large file", "a tree of trees", "a blob for the memory"],
)
async def test_a_few_kilobytes_that_would_grow_without_bounds_are_refused(
    base: Path,
    daemon: str,
    tmp_path: Path,
    make: Callable[[Path, str], None],
    limits: GitLimits,
    sentence: str,
) -> None:
    name = f"bomb-{limits.disk_bytes}-{limits.memory_bytes}.git"
    make(base, name)
    with pytest.raises(RepositoryRejected, match=sentence):
        await checkout(Remote.parse(f"{daemon}/{name}"), None, tmp_path, limits=limits)
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*")) < 20 * MIB


async def test_a_pack_that_is_larger_than_the_disk_is_meant_for_is_broken_off(
    base: Path, daemon: str, tmp_path: Path
) -> None:
    folder = base / "noise.git"
    folder.mkdir()
    (folder / "noise").write_bytes(os.urandom(4 * MIB))
    commit_all(folder, "Noise")
    with pytest.raises(RepositoryRejected, match="MOONMIND_CHECKOUT_MAX_GIB"):
        await checkout(
            Remote.parse(f"{daemon}/noise.git"), None, tmp_path, limits=GitLimits(disk_bytes=MIB)
        )
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*")) < 2 * MIB


def growing(base: Path, name: str, line: bytes, attributes: str, files: int) -> None:
    """A repository of files of half a MiB that are larger in a checkout, by its attributes."""
    folder = base / name
    folder.mkdir()
    for i in range(files):
        (folder / f"{i}.txt").write_bytes(line * (MIB // 2 // len(line)))
    commit_all(folder, "As they are")
    (folder / ".gitattributes").write_text(f"*.txt {attributes}\n")
    git(folder, "add", ".gitattributes")
    git(folder, "commit", "--quiet", "--message", "As they are checked out")


async def test_a_checkout_that_grows_by_its_attributes_is_broken_off(
    base: Path, daemon: str, tmp_path: Path
) -> None:
    # Each is 24 MiB in the end, together half a GiB.
    growing(base, "growing.git", b"$Id$", "ident working-tree-encoding=UTF-32LE", files=24)
    limits = GitLimits(disk_bytes=32 * MIB)
    with pytest.raises(RepositoryRejected, match="takes more than 32 MiB of the disk"):
        await checkout(Remote.parse(f"{daemon}/growing.git"), None, tmp_path, limits=limits)
    assert len([*tmp_path.glob("*.txt")]) < 24


async def test_a_checkout_that_grows_by_its_attributes_within_its_bounds_is_whole(
    base: Path, daemon: str, tmp_path: Path
) -> None:
    growing(base, "line-ends.git", b"\n", "eol=crlf", files=1)
    limits = GitLimits(disk_bytes=2 * MIB)
    await checkout(Remote.parse(f"{daemon}/line-ends.git"), None, tmp_path, limits=limits)
    assert (tmp_path / "0.txt").stat().st_size == MIB


async def test_a_commit_of_a_repository_with_very_many_branches_costs_few_files(
    base: Path, daemon: str, tmp_path: Path
) -> None:
    folder = base / "branches.git"
    folder.mkdir()
    (folder / "run.sh").write_text("echo served\n")
    commit = commit_all(folder, "Served")
    refs = "".join(f"{commit} refs/heads/b{i:04}\n" for i in range(2000))
    (folder / ".git" / "packed-refs").write_text(f"# pack-refs with: peeled sorted\n{refs}")
    found = await checkout(Remote.parse(f"{daemon}/branches.git"), commit[:10], tmp_path)
    assert found == commit
    assert git(tmp_path, "branch", "--remotes", "--contains", commit).count("origin/b") == 2000
    assert sum(1 for _ in tmp_path.rglob("*")) < 100


@pytest.mark.parametrize(
    ("zeros_mib", "noise_mib"),
    [(8, 0), (0, 8), (0, 2)],
    ids=["a large file", "a large pack", "a pack and what is in it"],
)
async def test_a_disk_that_is_nearly_full_is_the_hosts_fault(
    base: Path, daemon: str, tmp_path: Path, zeros_mib: int, noise_mib: int
) -> None:
    name = f"large-{zeros_mib}-{noise_mib}.git"
    zeros(base, name, zeros_mib)
    if noise_mib:
        # In place of the zeros.
        (base / name / "noise").write_bytes(os.urandom(noise_mib * MIB))
        commit_all(base / name, "Noise")
    with (
        disk(tmp_path, "4m") as folder,
        pytest.raises(WorkspaceError, match=r"of what is free on the disk .* make room there"),
    ):
        await checkout(Remote.parse(f"{daemon}/{name}"), None, folder)


async def test_a_checkout_has_one_time_limit_for_all_of_its_steps(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        remote = Remote.parse(f"git://127.0.0.1:{silent.getsockname()[1]}/x")
        with pytest.raises(WorkspaceError, match=r"took longer than 0\.2 s"):
            await checkout(remote, None, tmp_path, limits=GitLimits(seconds=0.2))


@pytest.mark.parametrize(
    ("said", "may_pass"),
    [
        ("fatal: unable to access 'http://a.invalid/x/': Could not resolve host: a.invalid", True),
        ("fatal: unable to access 'https://a/x/': The requested URL returned error: 503", True),
        ("error: RPC failed; curl 56 Recv failure: Connection reset by peer", True),
        ("fatal: unable to connect to a:\na[0: 10.0.0.1]: errno=Connection refused", True),
        ("fetch-pack: unexpected disconnect while reading sideband packet\nfatal: early EOF", True),
        (
            "fatal: unable to access 'https://a/x/': gnutls_handshake() failed: Error in the pull "
            "function.",
            True,
        ),
        (
            "fatal: unable to access 'https://a/x/': HTTP/2 stream 1 was not closed cleanly: "
            "INTERNAL_ERROR (err 2)",
            True,
        ),
        (
            "fatal: unable to access 'https://certificates.a/x/': Could not resolve host: "
            "certificates.a",
            True,
        ),
        ("fatal: write error: No space left on device", False),
        ("git: 3: exec: git: not found", False),
        (
            "Unable to negotiate with 10.0.0.1 port 22: no matching host key type found. Their "
            "offer: ssh-dss\nfatal: Could not read from remote repository.",
            False,
        ),
        (
            "Connection reset by 10.0.0.1 port 22\nfatal: Could not read from remote repository.",
            True,
        ),
        ("fatal: something new", False),
    ],
)
def test_what_git_says_tells_whether_the_next_try_may_find_it_otherwise(
    said: str, may_pass: bool
) -> None:
    error = git_failure(said, "https://git.example.org/x")
    assert isinstance(error, WorkspaceError)
    assert error.may_pass is may_pass


@pytest.mark.parametrize(
    "said",
    [
        "SSL certificate problem: self-signed certificate",
        "SSL: no alternative certificate subject name matches target host name 'a'",
        "server certificate verification failed. CAfile: none CRLfile: none",
        "server verification failed: certificate signer not trusted. (CAfile: none)",
    ],
)
def test_a_certificate_that_is_not_believed_has_a_sentence_of_its_own(said: str) -> None:
    error = git_failure(f"fatal: unable to access 'https://a/x/': {said}", "https://a/x")
    assert "MOONMIND_CA_FILE" in str(error)


@pytest.mark.parametrize(
    "said",
    [
        "fatal: repository 'https://a/team/certificate/' not found",
        "fatal: Authentication failed for 'https://a/team/certificates/'",
        "fatal: couldn't find remote ref refs/heads/certificate",
        "fatal: unable to access 'https://a/certificate/': The requested URL returned error: 403",
        # GitLab's and Azure DevOps' ssh say why in lines that are not kept.
        "fatal: Could not read from remote repository.\n\nPlease make sure you have the correct "
        "access rights\nand the repository exists.",
    ],
)
def test_what_the_other_side_refuses_is_the_submitters_whatever_it_is_called(said: str) -> None:
    error = git_failure(said, "https://a/x")
    assert isinstance(error, RepositoryRejected)
    assert "MOONMIND_CA_FILE" not in str(error)


async def test_an_operators_filters_and_hooks_have_no_hand_in_a_strangers_checkout(
    base: Path, daemon: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder, hooks = tmp_path / "home", tmp_path / "folder", tmp_path / "hooks"
    for made in (home, folder, hooks):
        made.mkdir()
    ran = tmp_path / "ran"
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (hooks / "post-checkout").chmod(0o755)
    (home / ".gitconfig").write_text(
        f"[core]\nhooksPath = {hooks}\n"
        f'[filter "lfs"]\nsmudge = touch {ran}; cat\nprocess = touch {ran}\nrequired = true\n'
    )
    served = base / "lfs.git"
    served.mkdir()
    (served / ".gitattributes").write_text("*.bin filter=lfs\n")
    (served / "a.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    commit_all(served, "With a pointer")
    monkeypatch.setenv("HOME", str(home))
    await checkout(Remote.parse(f"{daemon}/lfs.git"), None, folder)
    assert (folder / "a.bin").read_text() == "version https://git-lfs.github.com/spec/v1\n"
    assert not ran.exists()
