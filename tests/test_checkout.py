"""Checkouts over the network from real git servers, and what is said when they fail."""

import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from flows.errors import RepositoryRejected, WorkspaceError
from flows.payload.repository import Remote
from flows.workspace.git import checkout
from scripts.stack import free_port
from tests.git_server import PASSWORD, USER, commit_all, git, git_daemon, git_http
from tests.runs import Runner, shell


class Origin:
    """A repository with a branch, a tag, and a commit that no ref names."""

    def __init__(self, base: Path) -> None:
        self.folder = base / "team" / "game.git"
        self.folder.mkdir(parents=True)
        (self.folder / "run.sh").write_text("echo first\n")
        (self.folder / "run.sh").chmod(0o755)
        self.first = commit_all(self.folder, "First")
        git(self.folder, "tag", "v1")
        git(self.folder, "tag", "certificate-1")
        git(self.folder, "tag", "a-tree", "HEAD^{tree}")
        git(self.folder, "tag", "a-file", "HEAD:run.sh")
        (self.folder / "run.sh").write_text("echo second\n")
        self.second = commit_all(self.folder, "Second")
        git(self.folder, "checkout", "--quiet", "-b", "feature/x")
        (self.folder / "run.sh").write_text("echo feature\n")
        self.feature = commit_all(self.folder, "Feature")
        # Two that are a branch and a tag at the same time.
        for name, branch, tag in (("both", "second", "first"), ("heads/both", "first", "feature")):
            git(self.folder, "branch", name, getattr(self, branch))
            git(self.folder, "tag", name, getattr(self, tag))
        git(self.folder, "update-ref", "refs/pull/1/head", self.feature)
        git(self.folder, "checkout", "--quiet", "main")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("origins")


@pytest.fixture(scope="module")
def origin(base: Path) -> Origin:
    return Origin(base)


@pytest.fixture(scope="module")
def daemon(base: Path, origin: Origin) -> Iterator[str]:
    with git_daemon(base) as address:
        yield address


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        (None, "second"),
        ("main", "second"),
        ("v1", "first"),
        ("certificate-1", "first"),
        ("feature/x", "feature"),
        ("{first}", "first"),
        ("{short}", "first"),
        ("both", "second"),
        ("refs/heads/both", "second"),
        ("refs/tags/both", "first"),
        ("tags/both", "first"),
        ("heads/both", "first"),
        ("refs/pull/1/head", "feature"),
        ("HEAD", "second"),
    ],
)
async def test_a_branch_a_tag_or_a_commit_is_checked_out(
    daemon: str, origin: Origin, tmp_path: Path, ref: str | None, expected: str
) -> None:
    wanted = ref and ref.format(first=origin.first, short=origin.first[:10])
    commit = await checkout(Remote.parse(f"{daemon}/team/game.git"), wanted, tmp_path)
    assert commit == getattr(origin, expected)
    assert (tmp_path / "run.sh").read_text() == f"echo {expected}\n"


@pytest.mark.parametrize(
    ("path", "ref", "sentence"),
    [
        ("team/none.git", None, "cannot be checked out"),
        ("team/game.git", "no-such-branch", "task.git.startingBranch"),
        ("team/game.git", "0" * 40, "cannot be checked out"),
        ("team/game.git", "a-tree", "task.git.startingBranch"),
        ("team/game.git", "a-file", "task.git.startingBranch"),
    ],
)
async def test_a_missing_repository_or_ref_is_rejected(
    daemon: str, tmp_path: Path, path: str, ref: str | None, sentence: str
) -> None:
    with pytest.raises(RepositoryRejected, match=sentence):
        await checkout(Remote.parse(f"{daemon}/{path}"), ref, tmp_path)


async def test_a_server_that_does_not_answer_is_the_workspaces_failure(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="cannot be fetched"):
        await checkout(Remote.parse(f"git://127.0.0.1:{free_port()}/x.git"), None, tmp_path)


async def test_credentials_reach_the_server_and_nothing_else(
    base: Path, origin: Origin, tmp_path: Path
) -> None:
    with git_http(base) as server:
        url = f"http://{USER}:{quote(PASSWORD, safe='')}@{server}/team/game.git"
        assert await checkout(Remote.parse(url), "v1", tmp_path) == origin.first
    for path in (tmp_path / ".git").rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert PASSWORD.encode() not in text
            assert USER.encode() not in text


@pytest.mark.parametrize("login", ["", "contoso@"])
async def test_a_user_name_alone_does_not_close_a_public_repository(
    base: Path, origin: Origin, tmp_path: Path, login: str
) -> None:
    with git_http(base, public=True) as server:
        remote = Remote.parse(f"http://{login}{server}/team/game.git")
        assert await checkout(remote, "v1", tmp_path) == origin.first


@pytest.mark.parametrize("login", ["", f"{USER}:wrong-password@"])
async def test_a_log_in_that_is_refused_is_rejected_without_being_told(
    base: Path, origin: Origin, tmp_path: Path, login: str
) -> None:
    with git_http(base) as server:
        remote = Remote.parse(f"http://{login}{server}/team/game.git")
        with pytest.raises(RepositoryRejected) as raised:
            await checkout(remote, None, tmp_path)
    assert "wrong-password" not in str(raised.value)
    assert "may read" in str(raised.value)


@pytest.mark.docker
async def test_a_task_runs_in_its_checkout_and_no_credential_is_left_anywhere(
    base: Path, origin: Origin, runner: Runner
) -> None:
    with git_http(base) as server:
        url = f"http://{USER}:{quote(PASSWORD, safe='')}@{server}/team/game.git"
        # What the task knows from elsewhere and prints, in two pieces, is masked all the same.
        in_pieces = 'printf %.4s "$LEAK"; sleep 0.5; printf "%s\\n" "${LEAK#????}"'
        task = shell(
            f"sh run.sh; echo $REPOSITORY; {in_pieces}; cat .git/config",
            task={"git": {"startingBranch": "v1"}},
            env={"LEAK": PASSWORD},
        )
        run = await runner(task | {"repository": url})
    assert run.state.is_completed()
    assert run.output.splitlines()[:3] == ["first", f"http://{server}/team/game.git", "***"]
    assert run.run_json["commit"] == origin.first
    assert run.run_json["repository"] == f"http://{server}/team/game.git"
    for path in run.folder.rglob("*"):
        if path.is_file():
            for secret in (PASSWORD, quote(PASSWORD, safe=""), USER):
                assert secret.encode() not in path.read_bytes(), path


@pytest.mark.docker
@pytest.mark.parametrize(
    ("address", "state"),
    [("{daemon}/none.git", "Rejected"), ("git://127.0.0.1:1/x", "InfrastructureError")],
)
async def test_a_checkout_that_fails_ends_the_run_and_leaves_no_folder(
    daemon: str, runner: Runner, address: str, state: str
) -> None:
    task = shell("true", retry={"infrastructure": 0})
    run = await runner(task | {"repository": address.format(daemon=daemon)})
    assert run.state.name == state
    assert not run.folder.exists()


async def test_lfs_pointers_and_submodules_are_warned_of(
    base: Path, daemon: str, tmp_path: Path
) -> None:
    served = base / "lacking.git"
    (served / "art").mkdir(parents=True)
    (served / "art" / ".gitattributes").write_text("*.png filter=lfs diff=lfs merge=lfs -text\n")
    for name in ("a", "b", "c", "d"):
        (served / "art" / f"{name}.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    (served / ".gitmodules").write_text('[submodule "x"]\npath = x\nurl = https://a.invalid/x\n')
    commit_all(served, "With pointers")
    told: list[str] = []
    await checkout(Remote.parse(f"{daemon}/lacking.git"), None, tmp_path, say=told.append)
    pointers, submodules = told
    assert "LFS pointers, not contents: art/a.png, art/b.png, art/c.png and others" in pointers
    assert "submodules (.gitmodules), which are not checked out" in submodules


@pytest.mark.docker
async def test_what_a_checkout_lacks_is_a_warning_in_the_log(
    base: Path, daemon: str, runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    served = base / "with-submodule.git"
    served.mkdir()
    (served / ".gitmodules").write_text('[submodule "x"]\npath = x\nurl = https://a.invalid/x\n')
    commit_all(served, "With a submodule")
    run = await runner(shell("true") | {"repository": f"{daemon}/with-submodule.git"})
    warnings = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert any("has submodules" in sentence for sentence in warnings)
    assert "has submodules" in (run.folder / "artifacts/logs/execute.log").read_text()


async def test_attributes_that_are_about_something_else_are_not_warned_of(
    base: Path, daemon: str, tmp_path: Path
) -> None:
    served = base / "plain.git"
    served.mkdir()
    (served / ".gitattributes").write_text("*.sh text eol=lf\n# *.png filter=lfs\n")
    commit_all(served, "Plain")
    told: list[str] = []
    await checkout(Remote.parse(f"{daemon}/plain.git"), None, tmp_path, say=told.append)
    assert told == []
