"""Repositories by ssh, from a real server: whose key, which hosts are believed, what is said."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import get_client
from pydantic import SecretStr, ValidationError

from blocks.repositories import SLUG, RepositoryCredentials
from blocks.ssh import valid_hosts, valid_key
from flows.errors import HostMisconfigured, PayloadError, RepositoryRejected, WorkspaceError
from flows.payload.repository import Remote
from flows.runtime.credentials import opened
from flows.settings import HostSettings
from flows.workspace.git import checkout
from flows.workspace.git_access import HostAccess, git_access
from scripts.stack import free_port
from tests.git_server import commit_all
from tests.runs import Runner, shell
from tests.ssh_server import SshServer, as_known_host, make_key, ssh_server
from tests.test_secrets import stored, told_to_prefect


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ssh")
    (folder / "game").mkdir()
    (folder / "game" / "run.sh").write_text("echo private\n")
    commit_all(folder / "game", "First")
    return folder


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[SshServer]:
    with ssh_server(base) as server:
        yield server


def repository(server: SshServer, base: Path) -> str:
    return f"{server.address}{base}/game"


async def saved(server: SshServer, key: Path | None = None, hosts: str | None = None) -> str:
    block = RepositoryCredentials(
        url=server.address,
        ssh_private_key=SecretStr((key or server.key).read_text()),
        known_hosts=server.known_hosts if hosts is None else hosts,
    )
    await block.asave("task-ssh", overwrite=True)
    return "task-ssh"


async def test_who_reads_blocks_is_shown_no_key_and_no_token(
    server: SshServer, prefect_api: None
) -> None:
    await saved(server)
    token = RepositoryCredentials(url="https://example.org", password=SecretStr("t0ken-of-us"))
    await token.asave("task-shown", overwrite=True)
    async with get_client() as client:
        shown = await client.read_block_documents_by_type(SLUG, include_secrets=False)
    text = str([each.data for each in shown])
    assert "t0ken-of-us" not in text
    assert server.key.read_text().splitlines()[1] not in text
    assert (await RepositoryCredentials.named("task-ssh")).ssh_private_key is not None


@pytest.mark.docker
async def test_a_key_of_a_block_opens_the_repository_and_reaches_nothing_else(
    server: SshServer, base: Path, runner: Runner, jobs_folder: Path
) -> None:
    raw = shell("sh run.sh; env; cat .git/config") | {
        "repository": repository(server, base),
        "auth": {"repoAuthRef": await saved(server)},
    }
    run = await runner(raw)
    assert run.output.splitlines()[0] == "private", run.message
    lines = [line for line in server.key.read_text().splitlines() if not line.startswith("-")]
    prefect = await told_to_prefect(run)
    assert not any(line in prefect for line in lines)
    for path, content in stored(jobs_folder, run):
        assert not any(line.encode() in content for line in lines), path


async def test_a_key_of_a_block_is_on_no_disk_and_used_with_no_other(
    server: SshServer, base: Path, prefect_api: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_SSH_COMMAND", "false")
    remote = await opened(Remote.parse(repository(server, base)), await saved(server))
    assert server.key.read_text().splitlines()[1] not in repr(remote)
    with git_access(remote, HostAccess(ssh_key=Path("/none"))) as access:
        (named,) = (word[2:] for word in access.ssh_options if word.startswith("-i"))
        assert Path(named).read_text() == server.key.read_text()
        assert os.readlink(named).startswith("/memfd:")
        assert os.stat(named).st_mode & 0o777 == 0o600
        command = access.ssh_command(os.environ)["GIT_SSH_COMMAND"]
    assert "-Fnone -oIdentitiesOnly=yes -oIdentityAgent=none" in command
    assert not os.path.exists(named)


async def test_a_key_and_known_hosts_of_the_workers_files_open_the_repository(
    server: SshServer, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, folder = tmp_path / "hosts", tmp_path / "folder"
    hosts.write_text(server.known_hosts)
    folder.mkdir()
    monkeypatch.setenv("MOONMIND_SSH_KEY_FILE", str(server.key))
    monkeypatch.setenv("MOONMIND_SSH_KNOWN_HOSTS_FILE", str(hosts))
    host = HostSettings.from_environment()
    access = HostAccess(host.ssh_key_file, host.ssh_known_hosts_file)
    await checkout(Remote.parse(repository(server, base)), None, folder, host=access)
    assert (folder / "run.sh").read_text() == "echo private\n"


@pytest.mark.parametrize("mode", [0o644, None])
def test_a_key_file_that_ssh_would_not_take_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int | None
) -> None:
    if mode:
        make_key(tmp_path / "key").chmod(mode)
    monkeypatch.setenv("MOONMIND_SSH_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(HostMisconfigured, match=r"MOONMIND_SSH_KEY_FILE is .*\(chmod 600\)"):
        HostSettings.from_environment()


async def refused(server: SshServer, base: Path, tmp_path: Path, key: Path, hosts: str) -> str:
    remote = Remote(repository(server, base), "game", ssh_key=key.read_text(), known_hosts=hosts)
    with pytest.raises(RepositoryRejected) as refusal:
        await checkout(remote, None, tmp_path)
    return str(refusal.value)


async def test_a_host_that_is_not_known_is_not_believed(
    server: SshServer, base: Path, tmp_path: Path
) -> None:
    hosts = as_known_host(1, base / "host")
    said = await refused(server, base, tmp_path, server.key, hosts)
    assert "host key is known for [127.0.0.1]" in said
    assert "docs/repositories.md" in said


async def test_a_host_whose_key_has_changed_is_not_believed(
    server: SshServer, base: Path, tmp_path: Path
) -> None:
    hosts = as_known_host(server.port, make_key(tmp_path / "other"))
    (tmp_path / "folder").mkdir()
    said = await refused(server, base, tmp_path / "folder", server.key, hosts)
    assert "Host key for [127.0.0.1]" in said
    assert "somebody may be in between" in said


async def test_a_key_that_the_server_does_not_take_is_told_apart(
    server: SshServer, base: Path, tmp_path: Path
) -> None:
    key = make_key(tmp_path / "other")
    (tmp_path / "folder").mkdir()
    said = await refused(server, base, tmp_path / "folder", key, server.known_hosts)
    assert "Permission denied (publickey)" in said
    assert "takes none of the keys that it was shown" in said


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ssh://git@no-such-host.invalid/x", "check the host's name, and this worker's DNS"),
        ("ssh://git@127.0.0.1:{port}/x", "Connection refused"),
    ],
)
async def test_a_host_that_is_not_reached_is_told_apart(
    tmp_path: Path, address: str, says: str
) -> None:
    remote = Remote.parse(address.format(port=free_port()))
    with pytest.raises(WorkspaceError) as raised:
        await checkout(remote, None, tmp_path)
    assert says in str(raised.value)
    assert raised.value.may_pass


@pytest.mark.parametrize(
    ("url", "wanted", "covers"),
    [
        ("ssh://git@example.org", "git@example.org:team/game", True),
        ("ssh://git@example.org/team", "git@example.org:team/game.git", True),
        ("git@example.org:team", "ssh://git@example.org:22/team/game", True),
        ("ssh://git@example.org/team", "git@example.org:teams/game", False),
        ("ssh://git@example.org", "root@example.org:team/game", False),
        ("ssh://git@example.org", "ssh://example.org/team/game", False),
        ("ssh://git@example.org", "ssh://git@example.org:2222/team/game", False),
        ("ssh://git@example.org", "git@evil.example:team/game", False),
        ("ssh://git@example.org", "https://git@example.org/team/game", False),
    ],
)
async def test_a_key_is_shown_to_the_host_and_for_the_user_that_it_is_for(
    server: SshServer, prefect_api: None, url: str, wanted: str, covers: bool
) -> None:
    key = SecretStr(server.key.read_text())
    await RepositoryCredentials(url=url, ssh_private_key=key).asave("task-for", overwrite=True)
    if covers:
        assert (await opened(Remote.parse(wanted), "task-for")).ssh_key == server.key.read_text()
    else:
        with pytest.raises(PayloadError, match="whose credentials are not for"):
            await opened(Remote.parse(wanted), "task-for")


def test_a_key_whose_lines_a_form_joined_is_put_right(server: SshServer) -> None:
    text = server.key.read_text()
    for changed in (text, text.replace("\n", " "), text.replace("\n", "\r\n"), f"\n{text.strip()}"):
        assert valid_key(changed).split() == text.split()
        assert valid_key(changed).endswith("-----\n")
    joined = (server.known_hosts + "# a comment\n\n" + "b.org ssh-rsa AAAAB3 by hand\n") * 2
    assert valid_hosts(joined).count("\n") == 4
    assert valid_hosts(server.known_hosts.replace("\n", " ") * 2) == server.known_hosts * 2


def test_what_ssh_could_not_use_is_not_saved(tmp_path: Path, server: SshServer) -> None:
    locked = make_key(tmp_path / "locked", passphrase="a passphrase")
    key = SecretStr(locked.read_text())
    with pytest.raises(ValidationError, match="without a passphrase") as refusal:
        RepositoryCredentials(url="ssh://git@example.org", ssh_private_key=key)
    assert locked.read_text().splitlines()[1] not in str(refusal.value)
    text = server.key.read_text()
    for key_text in ("ssh-ed25519 AAAA test", text[:100], text.replace("A", "!", 1)):
        with pytest.raises(ValueError, match="takes a private key"):
            valid_key(key_text)
    with pytest.raises(ValueError, match="takes lines of host, kind and key"):
        valid_hosts("example.org")


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "ssh://git@example.org", "password": "t0ken"},
        {"url": "ssh://git@example.org"},
        {"url": "ssh://example.org"},
        {"url": "ssh://git@%5Bother%5D@example.org", "ssh_private_key": "k"},
        {"url": "https://example.org"},
        {"url": "https://example.org", "password": "t0ken", "known_hosts": "a ssh-rsa AAAAB3"},
    ],
)
def test_a_block_for_ssh_has_a_key_and_one_for_https_a_token(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        RepositoryCredentials.model_validate(fields)
