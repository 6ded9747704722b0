"""Uploads to real stores: an S3 endpoint, a folder, blocks; also of hostile trees."""

import asyncio
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import pytest
from prefect.filesystems import WritableFileSystem
from prefect.types import SecretDict

from blocks.storage import ArtifactStorage
from flows.attempt import Attempt
from flows.errors import StorageError
from flows.outputs.stores import BlockStore, FsspecStore, HashingReader, explain, secrets_in
from flows.outputs.upload import Uploader, files_of, upload
from flows.outputs.upload_plan import UploadJournal, plan
from flows.workspace.tree import Tree, remove_tree, walk
from tests.finished import finished
from tests.gate import Gate
from tests.runs import until
from tests.s3 import BUCKET, SECRET, Endpoint, endpoint

LOGGER = logging.getLogger(__name__)
MIB = 1024**2


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return finished(tmp_path / "jobs")


def artifacts(attempt: Attempt) -> Path:
    return attempt.prepared.workspace.artifacts


def journal_of(attempt: Attempt) -> UploadJournal:
    spec = attempt.prepared.spec
    return UploadJournal(attempt.prepared.workspace.root, spec.job_id, spec.attempt)


def to_s3(s3: Endpoint, url: str = "", **settings: Any) -> ArtifactStorage:
    options = SecretDict(s3.options(url))
    return ArtifactStorage(url=f"s3://{BUCKET}/base", options=options, **settings)


async def sent(attempt: Attempt, storage: ArtifactStorage, seconds: float = 60) -> str:
    journal = journal_of(attempt)
    journal.open()
    return await upload(storage, journal, files(attempt), LOGGER, seconds)


def files(attempt: Attempt) -> Tree:
    return files_of(attempt.prepared.workspace, 1, 1)


def fill(folder: Path, files: int) -> dict[str, bytes]:
    """So many small files, and their contents by path."""
    contents = {f"d{n % 7}/f{n}.txt": f"{n}\n".encode() * (n + 1) for n in range(files)}
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return contents


def listed(manifest: bytes) -> dict[str, tuple[int, str]]:
    return {
        each["path"]: (each["sizeBytes"], each["sha256"]) for each in json.loads(manifest)["files"]
    }


def facts(contents: dict[str, bytes]) -> dict[str, tuple[int, str]]:
    return {
        path: (len(content), hashlib.sha256(content).hexdigest())
        for path, content in contents.items()
    }


async def test_every_file_arrives_in_s3_as_it_is_and_the_manifest_last(
    s3: Endpoint, attempt: Attempt
) -> None:
    contents = fill(artifacts(attempt), 30)
    contents |= {"empty": b"", "large.bin": os.urandom(12 * MIB + 1)}
    (artifacts(attempt) / "empty").touch()
    (artifacts(attempt) / "large.bin").write_bytes(contents["large.bin"])
    job = attempt.prepared.spec.job_id
    with Gate(s3.port) as gate:
        address = await sent(attempt, to_s3(s3, gate.http))
        assert gate.puts[-1] == f"{BUCKET}/base/{job}/1/manifest.json"
    assert address == f"s3://{BUCKET}/base/{job}/1"
    stored = s3.keys(f"base/{job}/1/")
    manifest = s3.read(f"base/{job}/1/manifest.json")
    assert set(stored) == {*contents, "manifest.json"}
    assert listed(manifest) == facts(contents)
    for path in ("d0/f0.txt", "empty", "large.bin"):
        assert s3.read(f"base/{job}/1/{path}") == contents[path]
    assert not journal_of(attempt).is_pending


async def test_every_file_arrives_in_a_folder(attempt: Attempt, tmp_path: Path) -> None:
    contents = fill(artifacts(attempt), 30) | {"large.bin": os.urandom(6 * MIB)}
    (artifacts(attempt) / "large.bin").write_bytes(contents["large.bin"])
    await sent(attempt, ArtifactStorage(url=f"file://{tmp_path}/results"))
    found = tmp_path / "results" / attempt.prepared.spec.job_id / "1"
    assert listed((found / "manifest.json").read_bytes()) == facts(contents)
    assert all((found / path).read_bytes() == content for path, content in contents.items())


@pytest.mark.thorough
async def test_what_is_there_is_not_sent_again_after_a_broken_upload(
    s3: Endpoint, attempt: Attempt
) -> None:
    contents = fill(artifacts(attempt), 60)
    with Gate(s3.port) as gate:
        gate.limit = 25
        with pytest.raises(StorageError, match=r"could not be sent to s3://results/base \("):
            await sent(attempt, to_s3(s3, gate.http, parallel_uploads=4))
        arrived = set(s3.keys(f"base/{attempt.prepared.spec.job_id}/1/"))
        assert 10 < len(arrived) <= 25
        assert "manifest.json" not in arrived
        assert journal_of(attempt).is_pending
    changed = sorted(arrived)[0]
    (artifacts(attempt) / changed).write_bytes(b"changed")
    noted = journal_of(attempt).read().sent
    with Gate(s3.port) as gate:
        await sent(attempt, to_s3(s3, gate.http))
        again = {put.split("/1/")[1] for put in gate.puts}
    assert again == (set(contents) - set(noted)) | {changed, "manifest.json"}
    assert len(again) < 50
    manifest = s3.read(f"base/{attempt.prepared.spec.job_id}/1/manifest.json")
    assert listed(manifest) == facts(contents | {changed: b"changed"})


@pytest.mark.thorough
async def test_a_store_that_lost_everything_gets_everything_again(attempt: Attempt) -> None:
    contents = fill(artifacts(attempt), 200)
    with endpoint() as s3:
        trying = asyncio.create_task(sent(attempt, to_s3(s3, parallel_uploads=2)))
        while len(journal_of(attempt).read().sent) < 20:
            await asyncio.sleep(0.01)
        s3.kill()
        with pytest.raises(StorageError):
            await trying
        assert 20 <= len(journal_of(attempt).read().sent) < 200
        s3.start()
        await sent(attempt, to_s3(s3))
        assert set(s3.keys(f"base/{attempt.prepared.spec.job_id}/1/")) == {
            *contents,
            "manifest.json",
        }


@pytest.mark.thorough
async def test_an_upload_whose_process_is_killed_is_resumed(s3: Endpoint, attempt: Attempt) -> None:
    contents = fill(artifacts(attempt), 300)
    journal = journal_of(attempt)
    journal.open()
    script = (
        "import asyncio, json, logging, sys\n"
        "from pathlib import Path\n"
        "from blocks.storage import ArtifactStorage\n"
        "from flows.workspace.folder import Workspace\n"
        "from flows.outputs.upload import files_of, upload\n"
        "from flows.outputs.upload_plan import UploadJournal\n"
        "root, job, url, options = Path(sys.argv[1]), *sys.argv[2:]\n"
        "storage = ArtifactStorage(url=url, options=json.loads(options), parallel_uploads=2)\n"
        "files = files_of(Workspace(root, job), 1, 1)\n"
        "journal = UploadJournal(root, job, 1)\n"
        "asyncio.run(upload(storage, journal, files, logging.getLogger(), 60))\n"
    )
    root, job = attempt.prepared.workspace.root, attempt.prepared.spec.job_id
    words = [str(root), job, f"s3://{BUCKET}/base", json.dumps(s3.options())]
    process = subprocess.Popen([sys.executable, "-c", script, *words])
    until(lambda: len(journal.read().sent) > 40)
    process.kill()
    process.wait()
    noted = journal.read().sent
    assert len(noted) < 300
    assert journal.is_pending
    with Gate(s3.port) as gate:
        await sent(attempt, to_s3(s3, gate.http))
        again = {put.split("/1/")[1] for put in gate.puts}
    assert again == (set(contents) - set(noted)) | {"manifest.json"}


async def test_an_upload_that_takes_too_long_says_so_and_stays_pending(
    s3: Endpoint, attempt: Attempt
) -> None:
    fill(artifacts(attempt), 5)
    with Gate(s3.port) as gate, gate.holding(b"PUT", times=100):
        with pytest.raises(StorageError, match="took longer than its limit of 1 s"):
            await sent(attempt, to_s3(s3, gate.http), seconds=1)
        assert journal_of(attempt).is_pending


@pytest.mark.thorough
async def test_memory_stays_flat_however_large_the_files(s3: Endpoint, tmp_path: Path) -> None:
    script = (
        "import asyncio, json, logging, os, resource, sys\n"
        "from pathlib import Path\n"
        "from blocks.storage import ArtifactStorage\n"
        "from flows.outputs.upload import files_of, upload\n"
        "from flows.outputs.upload_plan import UploadJournal\n"
        "from tests.finished import finished\n"
        "root, url, options = Path(sys.argv[1]), *sys.argv[2:]\n"
        "def peak(mib):\n"
        "    attempt = finished(root)\n"
        "    for n in range(4):\n"
        "        file = attempt.prepared.workspace.artifacts / str(n)\n"
        "        with file.open('wb') as data:\n"
        "            for _ in range(mib // 4):\n"
        "                data.write(os.urandom(2**20))\n"
        "    storage = ArtifactStorage(url=url, options=json.loads(options))\n"
        "    journal = UploadJournal(root, attempt.prepared.spec.job_id, 1)\n"
        "    files = files_of(attempt.prepared.workspace, 1, 1)\n"
        "    asyncio.run(upload(storage, journal, files, logging.getLogger(), 60))\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "small = peak(64)\n"
        "print(peak(320) - small)\n"
    )
    words = [str(tmp_path), f"s3://{BUCKET}/flat", json.dumps(s3.options())]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=True
    )
    s3.empty()
    assert int(done.stdout) < 48, "MiB more for five times the files"


STRANGE = {b"\xff\xfe", b"new\nline", b"n" * 255, b"\xc3" * 255, b"..%2f..", b"*[a]?", b"%41"}


def hostile(folder: Path, outside: Path) -> None:
    """All that a container can leave."""
    (folder / "leads").symlink_to(outside)
    (folder / "leads-to-folder").symlink_to(outside.parent)
    os.mkfifo(folder / "pipe")
    os.mknod(folder / "device", 0o020666, os.makedev(1, 5))
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(folder)
        bound.bind("socket")
        os.chdir(here)
    for name in (
        b"\xff\xfe",
        b"new\nline",
        b"n" * 255,
        b"\xc3" * 255,
        b"..%2f..",
        b"*[a]?",
        b"%41",
    ):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(name)


@pytest.mark.parametrize("to", ["s3", "folder"])
async def test_a_hostile_tree_makes_nothing_be_read_or_written_outside(
    s3: Endpoint, attempt: Attempt, tmp_path: Path, to: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not for everybody")
    hostile(artifacts(attempt), secret)
    job = attempt.prepared.spec.job_id
    if to == "s3":
        await sent(attempt, to_s3(s3))
        stored = {key: s3.read(f"base/{job}/1/{key}") for key in s3.keys(f"base/{job}/1/")}
    else:
        target = tmp_path / "target"
        await sent(attempt, ArtifactStorage(url=f"file://{target}/in"))
        assert os.listdir(target) == ["in"]
        base = target / "in" / job / "1"
        stored = {
            str(path.relative_to(base)): path.read_bytes()
            for path in base.rglob("*")
            if path.is_file()
        }
    manifest = json.loads(stored.pop("manifest.json"))
    assert {each["path"]: each["kind"] for each in manifest["skipped"]} == {
        "leads": "symlink",
        "leads-to-folder": "symlink",
        "pipe": "fifo",
        "device": "device",
        "socket": "socket",
    }
    assert b"not for everybody" not in b"".join(stored.values())
    keys = [each.get("key", each["path"]) for each in manifest["files"]]
    assert sorted(keys) == sorted(stored)
    assert {stored[key] for key in keys} == STRANGE


@pytest.fixture
def shallow_in_the_end(attempt: Attempt, tmp_path: Path) -> Iterator[None]:
    """What is too deep for pytest to remove is gone after the test."""
    yield
    remove_tree(artifacts(attempt))
    remove_tree(tmp_path / "results")


async def test_a_very_deep_tree_is_uploaded_as_far_as_it_can_be_walked(
    attempt: Attempt, tmp_path: Path, shallow_in_the_end: None
) -> None:
    descriptor = os.open(artifacts(attempt), os.O_RDONLY)
    for depth in range(1100):
        for name in ("file",) if depth in (0, 500, 1050) else ():
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
        os.mkdir("deeper", dir_fd=descriptor)
        inside = os.open("deeper", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inside
    os.close(descriptor)
    await sent(attempt, ArtifactStorage(url=f"file://{tmp_path}/results"))
    found = tmp_path / "results" / attempt.prepared.spec.job_id / "1"
    manifest = json.loads((found / "manifest.json").read_text())
    keys = [each.get("key", each["path"]) for each in manifest["files"]]
    assert len(keys) == 2
    assert all((found / key).is_file() for key in keys)
    assert [each["kind"] for each in manifest["skipped"]] == ["folder"]


async def test_an_artifacts_folder_that_became_a_link_is_not_followed(
    attempt: Attempt, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    artifacts(attempt).rmdir()
    artifacts(attempt).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="are not in"):
        await sent(attempt, ArtifactStorage(url=f"file://{tmp_path}/results"))


async def test_a_file_that_this_worker_may_not_read_is_skipped_and_not_fatal(
    attempt: Attempt, tmp_path: Path
) -> None:
    fill(artifacts(attempt), 3)
    gone = artifacts(attempt) / "d1" / "f1.txt"
    journal = journal_of(attempt)
    journal.open()
    planned = plan(walk(files(attempt)), 10**9)
    gone.unlink()
    store = FsspecStore(f"file://{tmp_path}/results", {})
    uploader = Uploader(store, files(attempt), planned, journal)
    uploader.send_files()
    uploader.send_manifest()
    job_id = attempt.prepared.spec.job_id
    manifest = json.loads((tmp_path / "results" / job_id / "1" / "manifest.json").read_text())
    assert manifest["skipped"] == [{"path": "d1/f1.txt", "kind": "unreadable"}]
    assert len(manifest["files"]) == 2


class Drawer(WritableFileSystem):
    """A file system block of somebody's own, which takes whole files."""

    _block_type_slug = "drawer"
    contents: ClassVar[dict[str, bytes]] = {}

    async def read_path(self, path: str) -> bytes:
        return self.contents[path]

    async def write_path(self, path: str, content: bytes) -> None:
        self.contents[path] = content


def reader(path: Path) -> HashingReader:
    return HashingReader(BytesIO(path.read_bytes()), path.stat().st_size, lambda: False)


def test_a_block_of_another_package_gets_whole_files_up_to_a_size(tmp_path: Path) -> None:
    drawer = Drawer()
    store = BlockStore(drawer, "drawer/mine")
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"hello")
    with large.open("wb") as file:
        file.truncate(300 * MIB)
    store.put("a/small", reader(small))
    assert drawer.contents == {"a/small": b"hello"}
    with pytest.raises(StorageError, match=r"takes whole files only, .* larger than 256 MiB"):
        store.put("a/large", reader(large))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense://x/y", "the protocol nonsense of nonsense://x/y needs a Python package"),
        ("dropbox://x", r"lacks \(ImportError: .*\): install it beside this one"),
    ],
)
def test_a_protocol_that_is_not_there_is_said_in_a_sentence(url: str, says: str) -> None:
    with pytest.raises(StorageError, match=says) as refusal:
        FsspecStore(url, {})
    assert "\n" not in str(refusal.value)


async def test_no_error_tells_the_credentials(s3: Endpoint, attempt: Attempt) -> None:
    fill(artifacts(attempt), 1)
    storage = ArtifactStorage(url="s3://no-such-bucket-here", options=SecretDict(s3.options()))
    with pytest.raises(StorageError) as failure:
        await sent(attempt, storage)
    assert SECRET not in str(failure.value)
    assert "bucket does not exist" in str(failure.value)
    said = explain(ValueError(f"wrong {SECRET}"), secrets_in(s3.options()))
    assert said == "ValueError: wrong ***"
