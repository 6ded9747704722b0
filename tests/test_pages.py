"""What pages tell people to type exists, what they show is accepted, and links lead somewhere."""

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

# What `prefect.cli.app` calls, which is a function: its words could not be parsed alone.
from prefect.cli._app import _app as prefect

from flows.cli import app as container_task
from flows.payload.parse import parse, require_runnable
from tests.specs import compiled

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = {"up", "exec", "stop", "start", "build", "ps", "logs", "down", "run", "pull"}
# What every machine has.
_OTHERS = {
    *("cp", "cat", "rm", "kill", "export", "docker", "git", "python", "python3", "pytest", "cd"),
    *("jq", "echo", "sed", ".", "iptables", "ssh-keygen"),
}
_RUN_ID = "00000000-0000-0000-0000-000000000000"
# Names that stand for the reader's own.
_OWN = re.compile(r"payload\.json|run\.json|alerts|nightly\.yaml")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[str]:
    """What stands behind a `$`, with the lines that go on."""
    for block in blocks(page, "console"):
        for found in re.finditer(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE):
            yield found[1].replace("\\\n", " ")


def words_of(command: str) -> Iterator[list[str]]:
    """The words of each program in a pipe or a list."""
    substituted = re.sub(r"\$\([^)]*\)", "substituted", command)
    substituted = re.sub(r"[0-9a-f]{8}-…", _RUN_ID, substituted)
    lexer = shlex.shlex(substituted, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if word and set(word) <= set("|&;"):
            yield words
            words = []
        elif not word or not set(word) <= set("<>"):
            words.append(word)
    yield words


COMMANDS = [(page, each) for page in PAGES for each in dict.fromkeys(commands(page))]


def accepts(app: App, words: list[str]) -> None:
    app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    ("page", "command"), COMMANDS, ids=[f"{page.stem}: {text[:60]}" for page, text in COMMANDS]
)
def test_a_command_that_a_page_shows_can_be_given(page: Path, command: str) -> None:
    for program, *words in words_of(command):
        match program:
            case "container-task":
                accepts(container_task, words)
            case "prefect":
                accepts(prefect, [word for word in words if word != "--no-prompt"])
            case "pip" if words[0] == "install" and words[-1].startswith(PROJECT["name"][:8]):
                assert words[-1].partition("[")[0] == PROJECT["name"]
                extra = re.findall(r"\[(.*)\]", words[-1])
                assert {*extra} <= {*PROJECT["optional-dependencies"]}
            case _ if program.startswith("scripts/"):
                assert os.access(ROOT / program, os.X_OK)
            case "docker" if words[0] == "compose":
                assert COMPOSE & set(words)
            case "pip":
                assert words[0] in ("install", "wheel")
            case _:
                assert program in _OTHERS or "=" in program or program.startswith("$"), program
        for word in words:
            if word.startswith(("examples/", "tests/")) and not _OWN.search(word):
                assert [*ROOT.glob(word)], word


PAYLOADS = [
    (page, text)
    for page in PAGES
    for text in blocks(page, "json")
    if "image" in json.loads(text).get("task", {}).get("container", {})
    and page.name != "cookbook.md"
]


@pytest.mark.parametrize(("page", "text"), PAYLOADS, ids=[page.stem for page, _ in PAYLOADS])
def test_a_payload_that_a_page_shows_is_one(page: Path, text: str) -> None:
    raw = json.loads(text)
    if f"{text}```\n\nis refused" in page.read_text():
        return
    require_runnable(parse(raw))
    assert compiled(raw).image


LINKS = [
    (page, link)
    for page in PAGES
    for link in dict.fromkeys(re.findall(r"\]\(([^)\s]+)\)", page.read_text()))
    if "://" not in link
]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", each.lower()) for each in headings)
    return {each.replace(" ", "-") for each in plain}


@pytest.mark.parametrize(
    ("page", "link"), LINKS, ids=[f"{page.stem}: {link}" for page, link in LINKS]
)
def test_a_link_within_the_project_leads_somewhere(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.exists()
    if anchor:
        assert anchor in anchors(target)


def test_every_page_can_be_reached_from_the_readme() -> None:
    named = {Path(link).name for link in re.findall(r"docs/[\w-]+\.md", PAGES[0].read_text())}
    assert named == {page.name for page in PAGES[1:]}
