"""One pull of an image at a time, whoever wants it, and the marks of what came with credentials."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.engine.images.auth import PrivateImages
from flows.engine.images.lock import PullLock
from flows.errors import ImageCause, ImageError, WorkspaceError


async def test_a_lock_is_held_by_one_at_a_time_and_leaves_no_file(tmp_path: Path) -> None:
    lock, inside, waited = PullLock(tmp_path / "pulls"), 0, []

    async def pull() -> None:
        nonlocal inside
        async with lock.held("a") as after_another:
            inside += 1
            assert inside == 1
            waited.append(after_another)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(pull() for _ in range(5)))
    assert sorted(waited) == [False, True, True, True, True]
    assert list((tmp_path / "pulls").iterdir()) == []


async def test_other_images_have_locks_of_their_own(tmp_path: Path) -> None:
    lock = PullLock(tmp_path)
    async with lock.held("a"), lock.held("b") as waited:
        assert not waited


async def test_what_a_dead_process_noted_of_its_failure_concerns_nobody_who_comes_later(
    tmp_path: Path,
) -> None:
    lock = PullLock(tmp_path)
    async with lock.held("a"):
        (file,) = tmp_path.iterdir()
        left = file.read_bytes()
    file.write_bytes(left or json.dumps([ImageCause.CORRUPT, "it broke off"]).encode())
    async with lock.held("a") as waited:
        assert not waited
    assert list(tmp_path.iterdir()) == []


HOLD = """
import asyncio, sys
from pathlib import Path
from flows.engine.images.lock import PullLock

async def hold():
    async with PullLock(Path(sys.argv[1])).held("a"):
        print("held", flush=True)
        sys.stdin.read()

asyncio.run(hold())
"""


@pytest.mark.parametrize("end", ["end", "kill"])
async def test_a_turn_is_held_against_other_processes_and_ends_with_its_own(
    tmp_path: Path, end: str
) -> None:
    heard = asyncio.Event()

    async def pull() -> bool:
        async with PullLock(tmp_path).held("a", heard.set) as waited:
            return waited

    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        waiting = asyncio.create_task(pull())
        await asyncio.wait_for(heard.wait(), 60)
        assert not waiting.done()
        if end == "kill":
            holder.kill()
        else:
            holder.stdin.close()
        assert await asyncio.wait_for(waiting, 60) is True


async def test_whoever_waits_may_be_cancelled(tmp_path: Path) -> None:
    lock, heard = PullLock(tmp_path), asyncio.Event()

    async def pull() -> None:
        async with lock.held("a", heard.set):
            pytest.fail("the lock is another's")

    async with lock.held("a"):
        waiting = asyncio.create_task(pull())
        await heard.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with lock.held("a") as waited:
        assert not waited


@pytest.mark.parametrize("cause", ImageCause)
async def test_a_failure_is_shared_unless_it_may_be_the_others_own(
    tmp_path: Path, cause: ImageCause
) -> None:
    lock, heard = PullLock(tmp_path), asyncio.Event()

    async def pull() -> str:
        async with lock.held("a", heard.set):
            return "tried"

    async def fail() -> asyncio.Task[str]:
        async with lock.held("a"):
            waiting = asyncio.create_task(pull())
            await heard.wait()
            raise ImageError("no", cause)
        return waiting

    with pytest.raises(ImageError):
        await fail()
    (waiting,) = (each for each in asyncio.all_tasks() if each.get_coro().__name__ == "pull")  # type: ignore[union-attr]
    if cause in (ImageCause.DENIED, ImageCause.WRONG_PLATFORM):
        assert await waiting == "tried"
    else:
        with pytest.raises(ImageError, match=r"^no$") as shared:
            await waiting
        assert shared.value.cause is cause
    async with lock.held("a") as waited:
        assert not waited


async def test_a_folder_that_cannot_be_made_is_the_workspaces_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkspaceError, match="cannot open"):
        async with PullLock(tmp_path / "file" / "pulls").held("a"):
            pytest.fail("there is no such folder")
    with pytest.raises(WorkspaceError, match="cannot write"):
        PrivateImages(tmp_path / "file" / "private").add("a")


def test_marks_stay_until_they_are_removed_and_tell_nothing(tmp_path: Path) -> None:
    PrivateImages(tmp_path).add("sha256:1")
    again = PrivateImages(tmp_path)
    assert again.has("sha256:2", "sha256:1")
    assert not again.has("sha256:2")
    assert all(each.read_bytes() == b"" for each in tmp_path.iterdir())
    again.remove("sha256:1", "never there")
    assert not PrivateImages(tmp_path).has("sha256:1")
