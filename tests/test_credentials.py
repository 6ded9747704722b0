"""Credentials of repositories and registries: blocks of types of their own, for git and the engine
alone, each for its host."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect_docker import DockerRegistryCredentials
from pydantic import SecretStr, ValidationError

from blocks.repositories import RepositoryCredentials
from flows.cli.doctor.checkup import Level
from flows.cli.doctor.old_secrets import check_old_secrets
from flows.errors import HostMisconfigured, PayloadError
from flows.payload.policy import Policy
from flows.payload.repository import Remote
from flows.runtime.credentials import container_secrets, opened
from scripts.stack import ROOT
from tests.git_server import PASSWORD, USER, commit_all, git_http
from tests.runs import Runner, shell
from tests.test_secrets import stored, told_to_prefect

PAGE = ROOT / "docs" / "repositories.md"
TOKEN = "t0ken-of-the-team"


async def saved(name: str, url: str, username: str = "", password: str = TOKEN) -> str:
    block = RepositoryCredentials(url=url, username=username, password=SecretStr(password))
    await block.asave(name, overwrite=True)
    return name


async def secret(name: str, value: str) -> None:
    await Secret(value=SecretStr(value)).asave(name, overwrite=True)


@pytest.mark.docker
async def test_credentials_of_a_block_open_the_repository_and_reach_nothing_else(
    runner: Runner, jobs_folder: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "team" / "game.git"
    repository.mkdir(parents=True)
    (repository / "run.sh").write_text("echo private\n")
    commit_all(repository, "First")
    with git_http(tmp_path) as server:
        block = await saved("task-git", f"http://{server}", USER, PASSWORD)
        raw = shell("sh run.sh; env; cat .git/config") | {
            "repository": f"http://{server}/team/game.git",
            "auth": {"repoAuthRef": block},
        }
        run = await runner(raw)
    assert run.output.splitlines()[0] == "private"
    prefect = await told_to_prefect(run)
    for secret in (PASSWORD, quote(PASSWORD, safe="")):
        assert secret not in prefect
        for path, content in stored(jobs_folder, run):
            assert secret.encode() not in content, path


@pytest.mark.docker
async def test_a_container_is_never_given_what_opens_a_repository(runner: Runner) -> None:
    """Neither by a block of that type, nor by a Secret as opened one before there was the type."""
    await saved("task-of-git", "https://github.com")
    await secret("task-before", f"https://robot:{TOKEN}@github.com")
    run = await runner(shell("env", secrets={"A": "task-of-git", "B": "task-before"}))
    assert run.state.name == "Rejected"
    assert "A: 'task-of-git' is a Repository Credentials block, and no container" in run.message
    assert "B: the value of the Secret block 'task-before' is a URL with a log-in" in run.message
    assert TOKEN not in run.message
    assert not run.folder.exists()


@pytest.mark.parametrize(
    "value",
    [
        f"https://robot:{TOKEN}@github.com",
        f"HTTPS://{TOKEN}@github.com/team\n",
        f"  http://:{TOKEN}@example.org:8080",
        f"https://robot:{TOKEN}@github.com\nhttps://other:{TOKEN}@example.org",
    ],
)
async def test_a_url_with_a_log_in_is_given_only_where_the_policy_names_its_block(
    prefect_api: None, value: str
) -> None:
    await secret("task-url", value)
    with pytest.raises(PayloadError, match="allowed_url_secrets") as refusal:
        await container_secrets({"INDEX": "task-url"}, ["task-other*"])
    assert TOKEN not in str(refusal.value)
    assert await container_secrets({"INDEX": "task-url"}, ["task-u*"]) == {"INDEX": value}


@pytest.mark.parametrize(
    "value", [TOKEN, "https://example.org/a?at=@b", f"postgres://u:{TOKEN}@db/x", "see https://a@b"]
)
async def test_what_opens_no_repository_is_given(prefect_api: None, value: str) -> None:
    await secret("task-plain", value)
    assert await container_secrets({"A": "task-plain"}) == {"A": value}


@pytest.fixture
async def registry_block(prefect_api: None) -> AsyncIterator[str]:
    """One for the length of a test: others look at all that there are."""
    name = "task-only-registry"
    password = SecretStr(TOKEN)
    block = DockerRegistryCredentials(registry_url="a.org", username="u", password=password)
    await block.asave(name, overwrite=True)
    yield name
    await DockerRegistryCredentials.adelete(name)


async def test_blocks_of_other_types_open_no_repository_and_say_what_to_do(
    prefect_api: None, registry_block: str
) -> None:
    await secret("task-only-secret", f"https://u:{TOKEN}@github.com")
    remote = Remote.parse("team/game")
    with pytest.raises(PayloadError, match="'task-only-secret' is a Secret block, and") as refusal:
        await opened(remote, "task-only-secret")
    assert "create one named 'task-only-secret' under Blocks in the UI" in str(refusal.value)
    with pytest.raises(PayloadError, match="is a Docker Registry Credentials block, and"):
        await opened(remote, registry_block)
    with pytest.raises(PayloadError, match="is a Docker Registry Credentials block, and no cont"):
        await container_secrets({"A": registry_block})
    with pytest.raises(PayloadError, match="there is no Repository Credentials block named"):
        await opened(remote, "task-none")


async def test_an_api_that_does_not_answer_opens_nothing(prefect_api: None) -> None:
    nobody = {PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(nobody), pytest.raises(HostMisconfigured, match="cannot be read"):
        await opened(Remote.parse("team/game"), "task-git")


@pytest.mark.parametrize(
    ("url", "repository"),
    [
        ("https://github.com", "https://evil.example/x"),
        ("https://github.com", "http://github.com/x"),
        ("https://github.com", "https://github.com:444/x"),
        ("https://github.com", "https://github.com.evil.example/x"),
        ("https://github.com", "https://github.com@evil.example/x"),
        ("https://github.com/team", "https://github.com/other/x"),
        ("https://github.com/team", "https://github.com/team/../other/x"),
        ("https://github.com/team", "https://github.com/team/%2e%2e/other/x"),
        ("https://github.com/team", "https://github.com/teams/x"),
        ("https://github.com", "git@github.com:team/x.git"),
        ("https://github.com", "git://github.com/team/x.git"),
    ],
)
async def test_credentials_are_never_sent_where_they_are_not_for(
    prefect_api: None, url: str, repository: str
) -> None:
    block = await saved("task-host", url)
    with pytest.raises(PayloadError, match=r"auth\.repoAuthRef.*whose credentials are not for"):
        await opened(Remote.parse(repository), block)


@pytest.mark.parametrize("login", ["x:y", "ghp_0123456789abcdefghijABCDEFGHIJ012345"])
async def test_a_repository_with_credentials_of_its_own_takes_no_block(
    prefect_api: None, login: str
) -> None:
    block = await saved("task-host", "https://github.com")
    with pytest.raises(PayloadError, match="leave one of them out") as refusal:
        await opened(Remote.parse(f"https://{login}@github.com/x/y"), block)
    assert login not in str(refusal.value)


@pytest.mark.parametrize(
    ("username", "repository", "user"),
    [
        ("", "https://github.com/team/game", "git"),
        ("robot", "https://github.com/team/game", "robot"),
        ("", "https://contoso@github.com/team/game", "contoso"),
        ("robot", "https://contoso@github.com/team/game", "robot"),
        ("robot", "https://github.com:443/team/game", "robot"),
        ("robot", "team/game", "robot"),
    ],
)
async def test_the_blocks_password_goes_with_its_user_or_that_of_the_url(
    prefect_api: None, username: str, repository: str, user: str
) -> None:
    block = await saved("task-path", "https://github.com/team", username, "t0k%2Fen")
    remote = await opened(Remote.parse(repository), block)
    assert (remote.username, remote.password) == (user, "t0k%2Fen")
    assert remote.secrets == ("t0k%2Fen",)
    assert remote.below == "https://github.com/team"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"url": "github.com"}, "takes a host, and a path if need be"),
        ({"url": "ftp://github.com"}, "takes a host, and a path if need be"),
        ({"url": "https://github.com:0"}, "takes a host, and a path if need be"),
        ({"url": f"https://u:{TOKEN}@github.com"}, "put user and token into the fields"),
        ({"url": "https://github.com?a=b"}, "takes a host and a path alone"),
        ({"password": ""}, "takes a token or password for an https URL"),
        ({"password": "a\nb"}, "takes one line of text"),
        ({"known_hosts": "a.org ssh-rsa AAAAB3"}, "takes a token or password for an https URL"),
    ],
)
def test_a_block_that_makes_no_sense_is_not_saved(changed: dict[str, Any], says: str) -> None:
    fields = {"url": "https://github.com", "password": TOKEN} | changed
    with pytest.raises(ValidationError, match=says) as refusal:
        RepositoryCredentials.model_validate(fields)
    assert TOKEN not in str(refusal.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https://robot:t%2Fken@github.com/team", ("https://github.com/team", "robot", "t/ken")),
        (f"https://{TOKEN}@github.com", ("https://github.com", "", TOKEN)),
    ],
)
async def test_a_secret_of_before_is_moved_as_the_page_says(
    prefect_api: None, value: str, expected: tuple[str, str, str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    await secret("task-team", value)
    await asyncio.to_thread(exec, code, {})
    moved = await RepositoryCredentials.named("task-team")
    assert moved.password is not None
    assert (moved.url, moved.username, moved.password.get_secret_value()) == expected
    with pytest.raises(PayloadError, match="no container is given"):
        await container_secrets({"A": "task-team"})
    await RepositoryCredentials.adelete("task-team")


async def test_the_doctor_names_secrets_that_are_to_be_moved(prefect_api: None) -> None:
    await secret("task-to-move", f"https://robot:{TOKEN}@github.com")
    (found,) = await check_old_secrets()
    assert found.level is Level.WARNING
    assert "task-to-move" in found.says
    assert TOKEN not in f"{found.says}{found.mend}"
    assert "allowed_url_secrets" in found.mend
    await Secret.adelete("task-to-move")


def test_a_policy_of_before_bounds_what_opens_repositories_as_it_did() -> None:
    before = Policy.model_validate({"allowed_secrets": ["task-team-*"]})
    assert before.allowed_repository_credentials == ["task-team-*"]
    assert Policy().allowed_repository_credentials == ["task-*"]
    both = {"allowed_secrets": ["a"], "allowed_repository_credentials": ["b"]}
    assert Policy.model_validate(both).allowed_repository_credentials == ["b"]
