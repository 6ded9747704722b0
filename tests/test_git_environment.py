"""What git is told by its environment: the operator's settings, and nobody else's repository."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.payload.repository import Remote
from flows.workspace.git import checkout
from flows.workspace.git_environment import git_environment
from tests.git_server import commit_all, git, git_daemon

REMOTE = Remote.parse("https://git.example.org/team/game.git")
OF_A_REPOSITORY = subprocess.run(
    ["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True, check=True
).stdout.split()
OF_OTHER_VERSIONS = ["GIT_NAMESPACE", "GIT_QUARANTINE_PATH", "GIT_ATTR_SOURCE", "GIT_DEFAULT_HASH"]
OF_A_CALLERS_MAKING = ["GIT_TEMPLATE_DIR", "GIT_TRACE", "GIT_TRACE_CURL", "GIT_ALLOW_PROTOCOL"]
OF_THE_OPERATOR = [
    "PATH", "HOME", "https_proxy", "HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "SSH_AUTH_SOCK", "SSH_ASKPASS", "GIT_SSH_COMMAND", "GIT_ASKPASS", "GIT_SSL_CAINFO",
    "GIT_CONFIG_GLOBAL", "GIT_HTTP_PROXY_AUTHMETHOD", "GIT_SSL_CIPHER_LIST", "AWS_PROFILE",
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def commit(base: Path) -> str:
    folder = base / "game.git"
    folder.mkdir()
    (folder / "run.sh").write_text("echo served\n")
    return commit_all(folder, "Served")


@pytest.fixture(scope="module")
def daemon(base: Path, commit: str) -> Iterator[str]:
    with git_daemon(base) as address:
        yield address


@pytest.mark.parametrize("name", OF_A_REPOSITORY + OF_OTHER_VERSIONS + OF_A_CALLERS_MAKING)
def test_no_variable_about_another_repository_reaches_git(name: str) -> None:
    assert git_environment(REMOTE, pinned=True, callers={name: "theirs"}).get(name) != "theirs"


@pytest.mark.parametrize("name", OF_THE_OPERATOR)
def test_what_an_operator_says_of_the_host_reaches_git(name: str) -> None:
    assert git_environment(REMOTE, pinned=True, callers={name: "theirs"})[name] == "theirs"


async def test_all_variables_that_are_somebody_elses_change_no_checkout_and_no_repository(
    daemon: str, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers, folder = tmp_path / "callers", tmp_path / "folder"
    callers.mkdir()
    folder.mkdir()
    (callers / "file").write_text("theirs\n")
    commit_all(callers, "Theirs")
    before = contents(callers)
    of_git = str(callers / ".git")
    with monkeypatch.context() as hook:
        for name in OF_A_REPOSITORY:
            hook.setenv(name, of_git)
        hook.setenv("GIT_DEFAULT_HASH", "sha256")
        hook.setenv("GIT_TRACE", str(tmp_path / "trace"))
        hook.setenv("GIT_LITERAL_PATHSPECS", "1")
        assert await checkout(Remote.parse(f"{daemon}/game.git"), None, folder) == commit
    assert git(folder, "rev-parse", "HEAD") == commit
    assert (folder / "run.sh").read_text() == "echo served\n"
    assert contents(callers) == before
    assert sorted(os.listdir(tmp_path)) == ["callers", "folder"]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
