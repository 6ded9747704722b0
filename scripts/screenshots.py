"""Pictures of what a user sees, into docs/images: the form, runs, logs, artifacts and events.

Brings up a server and a worker of this checkout, runs the tasks of `scripts.screenshot_tasks` and
photographs their pages, and every artifact that the runs have.
"""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from flows.report.names import REPORT_KEY
from scripts.browser import HEIGHT, WIDTH, SubmitForm, chromium, opened_page, visit
from scripts.postgres import Postgres
from scripts.screenshot_tasks import PROJECT, tasks
from scripts.stack import ROOT, Stack, free_port
from tests.git_server import commit_all, git, git_daemon
from tests.runs import PYTHON
from tests.weather import Weather

FOLDER = ROOT / "docs" / "images"
_TALLEST = 3000
_LARGEST_BYTES = 200_000
_RUN_SECONDS = 240.0
_STILL_SECONDS = 0.5
# The names of this machine and of its folders are nobody's business.
_SETTINGS = {"MOONMIND_WORKER_NAME": "builder-1"}


async def main() -> int:
    """Run the tasks, take the pictures, and say which are too large for a page."""
    program = chromium()
    if program is None:
        print("chromium is not installed: install it, or run scripts/screenshots", file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.png"):
        old.unlink()
    with _stack() as (stack, repository):
        weather = Weather(stack)
        async with opened_page(program) as page:
            camera = Camera(page, stack)
            rejected = await camera.forms()
            runs = {name: weather.submit(task) for name, task in tasks(repository).items()}
            runs["rejected"] = rejected
            for name, run_id in runs.items():
                await asyncio.to_thread(stack.await_final, run_id, _RUN_SECONDS)
                await camera.run(name, run_id)
            await camera.overview(runs["failed"])
    return _tell()


class Camera:
    """Takes pictures of the pages of a stack."""

    def __init__(self, page: Page, stack: Stack) -> None:
        self._page = page
        self._stack = stack
        self._shown: set[str] = set()

    async def forms(self) -> str:
        """The form, filled in and submitted once with something wrong; returns that run."""
        form = await SubmitForm.open(self._page, self._stack)
        await form.fill("Image", PYTHON)
        await form.add("Command", "python", "-c", "print('hello')")
        await form.field("Payload").evaluate("field => field.scrollIntoView()")
        await self._keep("form", HEIGHT)
        form = await SubmitForm.open(self._page, self._stack)
        await form.fill("Image", "Python")
        await form.add("Command", "make", "test")
        await form.fill("Memory", "2 gigabytes")
        return await form.submit()

    async def run(self, name: str, run_id: str) -> None:
        """The page of a run, its report, and what artifacts no run before it had."""
        await self._visit(f"/runs/flow-run/{run_id}", "Finished in state")
        await self._keep(f"run-{name}")
        for artifact in self._artifacts(run_id):
            key = artifact["key"]
            if key in self._shown:
                continue
            await self._visit(f"/artifacts/artifact/{artifact['id']}", key)
            if key == REPORT_KEY:
                await self._keep(f"report-{name}")
                if name == "failed":
                    await self._keep("report-failed-top", HEIGHT)
            else:
                await self._keep(f"artifact-{key}")
                self._shown.add(key)

    async def overview(self, run_id: str) -> None:
        """The list of runs, the artifacts of one, and its events."""
        await self._visit("/runs", "OutOfMemory")
        await self._keep("runs")
        await self._visit(f"/runs/flow-run/{run_id}", "Finished in state")
        await self._page.get_by_role("tablist").get_by_text("Artifacts").click()
        await expect(self._page.get_by_role("link", name="container-run").first).to_be_visible()
        await self._keep("run-artifacts")
        await self._visit(f"/events?resource=moonmind.task.{run_id}", "container.finished")
        await self._keep("events")

    def _artifacts(self, run_id: str) -> list[dict[str, Any]]:
        wanted = {"flow_run_id": {"any_": [run_id]}, "key": {"exists_": True}}
        answer = self._stack.api("POST", "/artifacts/filter", artifacts=wanted, sort="KEY_ASC")
        answer.raise_for_status()
        return list(answer.json())

    async def _visit(self, path: str, sign: str) -> None:
        await visit(self._page, self._stack.address + path, sign)

    async def _keep(self, name: str, height: int = 0) -> None:
        """Save the page, as tall as its content or `height`, once it no longer changes."""
        await self._page.set_viewport_size({"width": WIDTH, "height": height or HEIGHT})
        tall = await self._page.evaluate(
            "Math.max(...[...document.querySelectorAll('*')].map(each => each.scrollHeight))"
        )
        if not height:
            fitting = max(HEIGHT, min(tall, _TALLEST))
            await self._page.set_viewport_size({"width": WIDTH, "height": fitting})
        before, now = b"", await self._page.screenshot()
        while before != now:
            await asyncio.sleep(_STILL_SECONDS)
            before, now = now, await self._page.screenshot()
        (FOLDER / f"{name}.png").write_bytes(_small(now))


@contextmanager
def _stack() -> Iterator[tuple[Stack, str]]:
    """A server and a worker, and the address of the project on a git server."""
    with tempfile.TemporaryDirectory(prefix="moonmind-") as folder, Postgres() as database:
        home = Path(folder)
        for branch, files in PROJECT.items():
            _commit(home / "git" / "team" / "shop", branch, files)
        settings = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url, **_SETTINGS}
        with git_daemon(home / "git") as address, Stack(home, free_port(), settings) as stack:
            stack.start()
            yield stack, f"{address}/team/shop"


def _commit(folder: Path, branch: str, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if branch != "main":
        git(folder, "switch", "--quiet", "--create", branch)
    for name, text in files.items():
        (folder / name).write_text(text)
    commit_all(folder, f"Work on {branch}")


def _small(picture: bytes) -> bytes:
    """The picture with 256 colours, which is a third of its bytes."""
    done = subprocess.run(["pngquant", "-"], input=picture, capture_output=True, check=True)
    return done.stdout


def _tell() -> int:
    for each in sorted(FOLDER.glob("*.png")):
        print(f"{each.relative_to(ROOT)}: {each.stat().st_size} bytes")
    large = [each.name for each in FOLDER.glob("*.png") if each.stat().st_size > _LARGEST_BYTES]
    if large:
        print(f"too large for a page: {', '.join(sorted(large))}", file=sys.stderr)
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
