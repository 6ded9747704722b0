"""Repositories that their server says are elsewhere, with credentials and under a policy."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from flows.errors import RepositoryMoved
from flows.payload.repository import Remote
from flows.workspace.git import checkout
from tests.git_server import PASSWORD, USER, Instead, commit_all, git_http

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


def redirecting(status: int, old: str, new: str) -> Instead:
    """Sends what is asked for below the path `old` to the same below `new`."""

    def instead(path: str) -> tuple[int, Mapping[str, str]] | None:
        return (status, {"Location": path.replace(old, new, 1)}) if path.startswith(old) else None

    return instead


@pytest.fixture(scope="module")
def elsewhere(base: Path, commit: str) -> Iterator[tuple[str, list[str]]]:
    """Another server, and the paths that it was asked for."""
    asked: list[str] = []

    def note(path: str) -> None:
        asked.append(path)

    with git_http(base, note) as server:
        yield server, asked


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize(("old", "new"), [("/team/game/", "/team/game.git/"), ("/a/", "/team/")])
async def test_a_redirection_on_the_same_server_is_followed_with_credentials(
    base: Path, commit: str, tmp_path: Path, status: int, old: str, new: str
) -> None:
    path = old + "game.git" if old == "/a/" else old.rstrip("/")
    with git_http(base, redirecting(status, old, new)) as server:
        remote = Remote.parse(f"http://{LOGIN}@{server}{path}")
        assert await checkout(remote, "main", tmp_path, pinned=True) == commit


async def test_credentials_do_not_follow_a_redirection_to_another_server(
    base: Path, tmp_path: Path, elsewhere: tuple[str, list[str]]
) -> None:
    other, asked = elsewhere
    away = redirecting(301, "/old/", f"http://user:secret@{other}/team/")
    with git_http(base, away) as server:
        remote = Remote.parse(f"http://{LOGIN}@{server}/old/game.git")
        with pytest.raises(RepositoryMoved) as raised:
            await checkout(remote, "main", tmp_path)
    assert f"is now at http://{other}/team/game.git: put that into repository" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert asked == []


async def test_a_redirection_to_what_the_policy_does_not_allow_is_not_followed(
    base: Path, commit: str, tmp_path: Path
) -> None:
    with git_http(base, redirecting(301, "/public/", "/team/")) as server:
        remote = Remote.parse(f"http://{LOGIN}@{server}/public/game.git")
        with pytest.raises(RepositoryMoved, match="which the container policy does not allow"):
            await checkout(
                remote,
                "main",
                tmp_path,
                pinned=True,
                allows=lambda there: "/public/" in there.url,
            )


def for_what_is_below(url: str, repository: str) -> Remote:
    return replace(Remote.parse(repository).with_login(USER, PASSWORD), below=url)


@pytest.mark.parametrize("below", ["/public", "/public/game.git"])
async def test_credentials_do_not_follow_a_redirection_beyond_the_path_that_they_are_for(
    base: Path, commit: str, tmp_path: Path, below: str
) -> None:
    asked: list[str] = []
    away = redirecting(301, "/public/", "/team/")

    def noting(path: str) -> tuple[int, Mapping[str, str]] | None:
        asked.append(path)
        return away(path)

    with git_http(base, noting) as server:
        remote = for_what_is_below(f"http://{server}{below}", f"http://{server}/public/game.git")
        with pytest.raises(
            RepositoryMoved, match=f"are for http://{re.escape(server)}{below} alone"
        ):
            await checkout(remote, "main", tmp_path)
    assert all(path.startswith("/public/") for path in asked)


@pytest.mark.parametrize(
    ("below", "path"), [("/team", "/team/old"), ("", "/old"), ("/team/game", "/team/game")]
)
async def test_credentials_follow_a_redirection_below_the_path_that_they_are_for(
    base: Path, commit: str, tmp_path: Path, below: str, path: str
) -> None:
    with git_http(base, redirecting(301, f"{path}/", "/team/game.git/")) as server:
        remote = for_what_is_below(f"http://{server}{below}", f"http://{server}{path}")
        assert await checkout(remote, "main", tmp_path) == commit


async def test_a_server_that_sends_round_in_a_circle_comes_to_an_end(
    base: Path, commit: str, tmp_path: Path
) -> None:
    with git_http(base, redirecting(301, "/", "/again/")) as server:
        remote = Remote.parse(f"http://{LOGIN}@{server}/game.git")
        with pytest.raises(RepositoryMoved, match="from one address to the next"):
            await checkout(remote, "main", tmp_path)


async def test_where_a_log_in_page_is_its_address_is_not_told(
    base: Path, commit: str, tmp_path: Path
) -> None:
    with git_http(base, lambda _: (302, {"Location": "/login?token=internal"})) as server:
        remote = Remote.parse(f"http://{LOGIN}@{server}/game.git")
        with pytest.raises(RepositoryMoved, match="to what is no repository") as raised:
            await checkout(remote, "main", tmp_path)
    assert "internal" not in str(raised.value)
