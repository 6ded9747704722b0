"""What a stranger chose, in every field that takes it, on every page of Prefect's two UIs.

A real run has it all: its payload, its repository, its files, its test report and its output. The
pages load nothing for its sake, ask nobody anything, lead nowhere, and show it as it was written.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from playwright.async_api import Dialog, Page, Request, TimeoutError

from scripts.stack import DEPLOYMENT, Stack
from tests.git_server import commit_all, git, git_daemon
from tests.runs import BUSYBOX, until

pytestmark = [pytest.mark.docker, pytest.mark.server, pytest.mark.thorough]

UIS = ("", "/v2")
TABS = {
    "": ["Logs", "Task Runs", "Artifacts", "Details", "Parameters", "Job Variables"],
    "/v2": ["Logs", "TaskRuns", "Artifacts", "Details", "Parameters", "JobVariables"],
}
ACTIVE = (
    "![b]({0}/markdown)", "<img src={0}/html>", "{0}/plain<img src={0}/behind>", "<{0}/angle>",
    "[a](javascript:alert(1))", "<script>alert(1)</script>", "<a href=javascript:alert(1)>x</a>",
    "<iframe src={0}/frame>", "<style>*{{background:url({0}/css)}}</style>",
    "<svg onload=alert(1)>", "www.evil.test/x", "me@evil.test", "{0}/a|b`<img src={0}/tick>`",
)  # fmt: skip
PLAIN = (
    "Cache<int>", "__init__.py", "a|b", "*x*", "1. x", "# x", "&amp;", "&lt;b&gt;", "\\*", "a_b_c",
    "~~x~~", "$x$", "`tick`", "- x", "[ ] x", "a\\|b", "[x]: y", "> q", "{{ x }}", "&#60;",
)  # fmt: skip
# A busy machine takes long to show a page.
_PATIENCE_MS, _TRIES = 45_000, 3
WAITED_FOR = "\u202e<img src=//evil.test/x>__x__"
_TEXT = """() => [...document.querySelectorAll("main, body")].map(
    each => each.innerText.replace(/\\s+/g, " ")).join(" ")"""
_FOUND = """() => [...document.querySelectorAll("a[href], [src], form, iframe, [onload]")].map(
    each => each.getAttribute("href") || each.getAttribute("src") || each.tagName)"""


@contextmanager
def counted() -> Iterator[tuple[str, list[str]]]:
    """An address on loopback, and the paths that anybody asks it for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        do_HEAD = do_POST = do_OPTIONS = do_GET

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Hostile:
    """A run that ended, what it tried to have loaded, and who asked for that."""

    stack: Stack
    address: str
    asked: list[str]
    run_id: str
    strings: tuple[str, ...]
    refused_id: str
    imageless_id: str
    waiting_id: str

    summary_id: str

    def lists(self) -> Iterator[tuple[str, str]]:
        deployment = self.stack.api("GET", f"/deployments/name/{DEPLOYMENT}").json()
        name = " ".join(self.stack.flow_run(self.run_id)["name"].split())
        yield "/dashboard", "container-task"
        yield "/runs", name
        yield f"/deployments/deployment/{deployment['id']}?tab=Runs", name
        yield f"/flows/flow/{deployment['flow_id']}", name
        yield "/events", "Event Feed"

    def parts(self, ui: str) -> Iterator[tuple[str, str]]:
        """The pages of the run's stages and of its last event."""
        wanted = {"id": {"any_": [self.run_id]}}
        for each in self.stack.api("POST", "/task_runs/filter", flow_runs=wanted).json():
            yield f"/runs/task-run/{each['id']}", each["name"]
        event = _finished(self.stack, self.run_id)[0]
        path = f"/events/event/{event['occurred'][:10]}/{event['id']}"
        yield path, event["event"]
        yield f"{path}?tab={'raw' if ui else 'Raw'}", "durationSeconds"

    def artifacts(self, run_id: str) -> dict[str, str]:
        wanted = {"flow_run_id": {"any_": [run_id]}}
        found = self.stack.api("POST", "/artifacts/filter", artifacts=wanted).json()
        return {each["key"]: each["id"] for each in found}


@pytest.fixture(scope="module")
def hostile(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    folder = tmp_path_factory.mktemp("hostile")
    with ExitStack() as left:
        address, asked = left.enter_context(counted())
        strings = tuple(each.format(address) for each in ACTIVE) + PLAIN
        left.enter_context(_repository_at(folder, strings))
        served = left.enter_context(git_daemon(folder))
        run_id = stack.submit(_payload(f"{served}/__r__&amp;<b>x", strings))
        refused_id = stack.submit(_refused(strings))
        imageless_id = stack.submit(_imageless(strings))
        waiting_id = stack.submit({**_imageless(strings), "targetRuntime": WAITED_FOR})
        for each in (run_id, refused_id, imageless_id):
            stack.await_final(each)
        # The last that comes of a run.
        for each in (run_id, imageless_id):
            until(lambda: _finished(stack, each), what="its event")  # noqa: B023
        until(lambda: stack.flow_run(waiting_id)["tags"], what="what it waits for")
        summary_id = stack.submit_to("failure-summary/docker")
        assert stack.await_final(summary_id)["state_type"] == "COMPLETED"
        runs = (refused_id, imageless_id, waiting_id, summary_id)
        yield Hostile(stack, address, asked, run_id, strings, *runs)
        stack.api("DELETE", f"/flow_runs/{waiting_id}").raise_for_status()


def _finished(stack: Stack, run_id: str) -> Any:
    wanted = {"resource": {"id": [f"moonmind.task.{run_id}"]}}
    found = stack.api("POST", "/events/filter", filter=wanted, limit=50).json()["events"]
    return [each for each in found if each["event"].endswith("finished")]


@contextmanager
def _repository_at(folder: Path, strings: tuple[str, ...]) -> Iterator[None]:
    """A repository whose name, branch, files, tests and output are a stranger's."""
    repository = folder / "__r__&amp;<b>x"
    repository.mkdir()
    (repository / "lines.txt").write_text("".join(f"{each}\n" for each in strings))
    (repository / "tests.xml").write_text(_report(strings))
    (repository / "run.sh").write_text(
        "mkdir -p out $ARTIFACT_DIR/test-results; cp tests.xml $ARTIFACT_DIR/test-results/a.xml\n"
        'while IFS= read -r line; do name=$(echo "$line" | tr / :)\n'
        'echo x > "out/$name"; echo x > "$ARTIFACT_DIR/$name"; done < lines.txt\n'
        "cat lines.txt; exit 3\n"
    )
    commit_all(repository, strings[0])
    git(repository, "checkout", "--quiet", "-b", "__b__<i>&amp;")
    yield


def _report(strings: tuple[str, ...]) -> str:
    cases = "".join(
        f"<testcase classname={quoteattr(each)} name={quoteattr(each)}>"
        f"<failure message={quoteattr(each)}/></testcase>"
        for each in strings
    )
    return f"<testsuites><testsuite name={quoteattr(strings[1])}>{cases}</testsuite></testsuites>"


def _payload(repository: str, strings: tuple[str, ...]) -> Any:
    return {
        "repository": repository,
        "task": {
            "instructions": " ; ".join((*strings, "\u202eevil")),
            "git": {"startingBranch": "__b__<i>&amp;"},
            "skill": {"name": strings[0]},
            "container": {
                "enabled": True,
                "image": BUSYBOX,
                "pull": "never",
                "command": ["sh", "run.sh", "\u202e\u200bx", *strings],
                "entrypoint": [],
                "env": {f"E{at}": each for at, each in enumerate(strings)},
                "outputs": [{"path": "out/*"}, {"path": "<img src=x>__none__*.txt"}],
            },
        },
    }


def _refused(strings: tuple[str, ...]) -> Any:
    """Every fault repeats what is wrong."""
    keys: dict[str, Any] = {each: 1 for each in strings}
    container = {"enabled": True, "image": strings[1], "command": ["x"], "user": strings[2], **keys}
    return {"task": {"container": container}}


def _imageless(strings: tuple[str, ...]) -> Any:
    container = {"enabled": True, "image": "www.evil.test/a__b__c:1", "pull": "never",
                 "command": list(strings), "workdir": "/tmp/__w__<b>*x*"}  # fmt: skip
    return {"task": {"instructions": strings[0], "container": container}}


@dataclass
class Watch:
    """A browser's page, and what a stranger got out of it."""

    page: Page
    hostile: Hostile
    dialogs: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("dialog", self._on_dialog)
        self.page.on("request", self._on_request)

    async def _on_dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        await dialog.dismiss()

    def _on_request(self, request: Request) -> None:
        if self.hostile.address in request.url or "evil.test" in request.url:
            self.foreign.append(request.url)

    async def see(self, path: str, *texts: str, links: bool = False) -> None:
        """Open a page, wait until it shows the texts, and hold that nothing of it acts; with
        `links`, addresses may be links to what they say, as Prefect's logs make them."""
        for left in reversed(range(_TRIES)):
            await self.page.goto(f"{self.hostile.stack.address}{path}")
            try:
                await self._await_texts(path, texts)
                break
            except AssertionError:
                # A page that gets no answer in time from a busy server stays empty for ever.
                if not left:
                    raise
        await self.page.wait_for_load_state("networkidle")
        active = await self.page.evaluate(_FOUND)
        ours = [each for each in active if not _is_strangers(each, self.hostile.address)]
        assert links or ours == active, (path, set(active) - set(ours))
        assert not [each for each in active if each.lower().startswith("javascript:")]
        assert self.dialogs == []
        assert self.foreign == []
        assert self.hostile.asked == []

    async def _await_texts(self, path: str, texts: tuple[str, ...]) -> None:
        for text in texts:
            wanted = " ".join(text.split())
            try:
                await self.page.wait_for_function(
                    f"wanted => ({_TEXT})().includes(wanted)", arg=wanted, timeout=_PATIENCE_MS
                )
            except TimeoutError as error:
                seen = await self.page.evaluate(_TEXT)
                raise AssertionError(
                    f"{path} does not show {wanted!r} but {seen[:3000]}"
                ) from error


def _is_strangers(address: str, counter: str) -> bool:
    return any(each in address for each in (counter, "evil.test", "javascript:"))


@pytest.mark.parametrize("ui", UIS, ids=["v1", "v2"])
async def test_whatever_a_stranger_chose_is_shown_as_it_was_written_and_nothing_is_loaded(
    hostile: Hostile, page: Page, ui: str
) -> None:
    stack, watch, strings = hostile.stack, Watch(page, hostile), hostile.strings
    run = stack.flow_run(hostile.run_id)
    assert run["name"].isprintable()
    made = hostile.artifacts(hostile.run_id)

    def artifact(key: str) -> str:
        return f"{ui}/artifacts/artifact/{made[key]}"

    # On the page of a run and of its stages, tab by tab.
    for tab in TABS[ui]:
        await watch.see(f"{ui}/runs/flow-run/{hostile.run_id}?tab={tab}", run["name"], links=True)
    together = f"{' ; '.join(strings)} ; \\u202eevil"
    lines = " ".join(strings)
    names = [each.replace("/", ":") for each in PLAIN]
    await watch.see(artifact("container-run"), together, lines, *names)
    await watch.see(artifact("container-run-tests"), *PLAIN)
    await watch.see(artifact("container-run-outputs"), *(f"out/{each}" for each in names))
    await watch.see(artifact("container-run-metadata"), run["name"].split(" · ")[0])
    for key in made:
        await watch.see(f"{ui}/artifacts/key/{key}", key)
    await watch.see(f"{ui}/artifacts", "container-run")


@pytest.mark.parametrize("ui", UIS, ids=["v1", "v2"])
async def test_no_page_of_lists_or_of_other_runs_loads_anything_for_a_strangers_sake(
    hostile: Hostile, page: Page, ui: str
) -> None:
    stack, watch, strings = hostile.stack, Watch(page, hostile), hostile.strings
    refused, imageless = map(stack.flow_run, (hostile.refused_id, hostile.imageless_id))
    waiting = stack.flow_run(hostile.waiting_id)
    for tab in TABS[ui][:1] + TABS[ui][-2:]:
        for run in (refused, imageless, waiting):
            path = f"{ui}/runs/flow-run/{run['id']}?tab={tab}"
            await watch.see(path, run["name"], *run["tags"], links=True)
    report = hostile.artifacts(refused["id"])["container-run"]
    named = ("Cache<int>", "&amp;", "*x*", "a|b", "# x")
    faults = [f'["{each}"]: is not a key' for each in named]
    await watch.see(f"{ui}/artifacts/artifact/{report}", f"'{strings[1]}', not an image", *faults)
    for key, made in hostile.artifacts(imageless["id"]).items():
        await watch.see(f"{ui}/artifacts/artifact/{made}", key)
    summary = hostile.artifacts(hostile.summary_id)["container-task-summary"]
    told = " ".join(imageless["name"].split())
    await watch.see(f"{ui}/artifacts/artifact/{summary}", told, "www.evil.test/a__b__c:1")
    for path, sign in hostile.lists():
        await watch.see(f"{ui}{path}", sign)
    for path, sign in hostile.parts(ui):
        await watch.see(f"{ui}{path}", sign, links=True)
