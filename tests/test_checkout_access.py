"""Modes and owners of a checkout, and what the container's user may do with it: real git, a real
engine, workers with and without root's rights."""

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from flows.engine.docker.images import image_of, numbers_users_anew
from flows.engine.docker.options import create_arguments
from flows.errors import WorkspaceError
from flows.payload.repository import Remote
from flows.workspace.access import Access, How, access_for, give_access
from flows.workspace.git import checkout
from tests.git_server import commit_all, git, git_daemon
from tests.hosts import need_root, nobodys_folder
from tests.other_user import USER, home_of_user, run_payloads
from tests.runs import BUSYBOX, PYTHON, Finished, Runner, payload
from tests.specs import IMAGE, compiled
from tests.strategies import enabled

NO_DAC = ("DAC_OVERRIDE",)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    base = tmp_path_factory.mktemp("origins")
    folder = base / "team" / "game.git"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "file").write_text("text\n")
    (folder / "run.sh").write_text("echo first\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("../../outside")
    commit_all(folder, "First")
    with git_daemon(base) as address:
        yield f"{address}/team/game.git"


@pytest.mark.parametrize(
    ("user", "worker", "drops", "expected"),
    [
        ("", 0, (), Access(How.AS_IT_IS, 0)),
        ("root", 0, ("ALL",), Access(How.AS_IT_IS, 0)),
        ("0:0", 1000, (), Access(How.AS_IT_IS, 0)),
        ("root", 1000, NO_DAC, Access(How.ENTRY, 0)),
        ("", 1000, ("cap_dac_override",), Access(How.ENTRY, 0)),
        ("", 1000, ("ALL",), Access(How.ENTRY, 0)),
        ("1000", 1000, ("ALL",), Access(How.AS_IT_IS, 1000)),
        ("1234", 0, (), Access(How.OWNER, 1234)),
        ("1234:5678", 0, (), Access(How.OWNER, 1234, 5678)),
        ("1234:staff", 0, (), Access(How.OWNER, 1234)),
        ("1234:5678", 1000, (), Access(How.ENTRY, 1234, 5678)),
        ("node", 0, (), Access(How.ANYBODY)),
        ("node:1000", 1000, (), Access(How.ANYBODY)),
        ("4294967295", 0, (), Access(How.ANYBODY)),
        ("-1", 0, (), Access(How.ANYBODY)),
        ("²", 0, (), Access(How.ANYBODY)),
    ],
)
def test_who_the_user_is_decides_how_it_may_write(
    user: str, worker: int, drops: tuple[str, ...], expected: Access
) -> None:
    assert access_for(user, worker, cap_drop=drops) == expected


@pytest.mark.parametrize("added", ["DAC_OVERRIDE", "cap_dac_override", "ALL"])
def test_a_capability_that_is_added_after_all_are_dropped_counts(added: str) -> None:
    assert access_for("", 1000, (added,), ("ALL",)).how is How.AS_IT_IS


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode)
        for path in (folder, folder / "deep", folder / "deep/er/file", folder / "run.sh")
    }


AS_GIT_MADE_THEM = {".": 0o755, "deep": 0o755, "deep/er/file": 0o644, "run.sh": 0o755}


async def test_a_checkout_has_the_modes_that_git_gives(repository: str, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    folder.chmod(0o777)
    await checkout(Remote.parse(repository), None, folder)
    assert git(folder, "status", "--porcelain") == ""
    assert modes(folder) == AS_GIT_MADE_THEM
    assert not [
        each for each in folder.rglob("*") if each.lstat().st_mode & 0o22 and not each.is_symlink()
    ]


async def checked_out(repository: str, base: Path) -> Path:
    """A checkout beside a file that a link in it leads to."""
    (base / "outside").write_text("precious")
    (base / "outside").chmod(0o600)
    folder = base / "jobs" / "repo"
    folder.mkdir(parents=True)
    await checkout(Remote.parse(repository), None, folder)
    return folder


async def test_files_are_given_to_their_user_and_no_link_is_followed(
    repository: str, tmp_path: Path
) -> None:
    need_root("gives files away")
    folder = await checked_out(repository, tmp_path)
    wanted = Access(How.OWNER, 1234, 5678)
    assert give_access(folder, wanted) == wanted
    for path in (folder, *folder.rglob("*")):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (1234, 5678), path
    assert modes(folder) == AS_GIT_MADE_THEM
    assert (tmp_path / "outside").stat().st_uid == 0


def may_write(uid: int, path: Path) -> bool:
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "test", "-w"]
    return subprocess.run([*command, str(path)], check=False).returncode == 0


async def test_an_entry_in_the_acl_lets_one_user_write_and_nobody_else(repository: str) -> None:
    with nobodys_folder() as base:
        base.chmod(0o755)
        folder = await checked_out(repository, base)
        wanted = Access(How.ENTRY, 1234)
        assert give_access(folder, wanted) == wanted
        for path in (folder, *folder.rglob("*")):
            assert path.lstat().st_uid == os.geteuid()
            if not path.is_symlink():
                assert may_write(1234, path), path
                assert not may_write(4321, path), path
        assert not may_write(1234, base / "outside")


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EPERM])
async def test_without_owners_and_acls_everybody_may_write(
    repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    folder = await checked_out(repository, tmp_path)
    for name in ("chown", "setxattr"):
        monkeypatch.setattr(os, name, refuses)
    assert give_access(folder, Access(How.OWNER, 1234)).how is How.ANYBODY
    assert modes(folder) == {".": 0o777, "deep": 0o777, "deep/er/file": 0o666, "run.sh": 0o777}
    assert stat.S_IMODE((tmp_path / "outside").stat().st_mode) == 0o600
    monkeypatch.setattr(os, "fchmod", refuses)
    with pytest.raises(WorkspaceError, match="cannot give the container's user access to"):
        give_access(folder, Access(How.ANYBODY))


@pytest.mark.parametrize(
    ("folder", "part", "is_anew"),
    [
        ("/var/lib/docker/overlay2/1f/diff", "Engine", False),
        ("/var/lib/docker/100000.100000/overlay2/1f/diff", "Engine", True),
        ("/home/me/.local/share/docker/overlay2/1f/diff", "rootlesskit", True),
        ("/var/lib/containers/storage/overlay/1f/diff", "Podman Engine", True),
        (None, "Engine", False),
    ],
)
def test_an_engine_tells_whether_its_users_are_others(
    folder: str | None, part: str, is_anew: bool
) -> None:
    found = {"GraphDriver": {"Data": folder and {"UpperDir": folder}}}
    assert numbers_users_anew(found, {"Components": [{"Name": part}]}) is is_anew


def test_an_image_tells_its_user() -> None:
    assert image_of({"Id": "sha256:1", "Config": {"User": "node"}}, "node:22").user == "node"
    assert image_of({"Id": "sha256:1", "Config": None}, "node:22").user == ""


def git_settings(raw: Any) -> dict[str, str]:
    environment = create_arguments(compiled(raw), IMAGE, (1, 41))["environment"]
    return {name: value for name, value in environment.items() if name.startswith("GIT_")}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, {"COUNT": "1", "KEY_0": "safe.directory", "VALUE_0": "/work/agent_jobs/7f1e/repo"}),
        (
            {"COUNT": "1", "KEY_0": "user.name", "VALUE_0": "me"},
            {"COUNT": "2", "KEY_0": "user.name", "VALUE_0": "me", "KEY_1": "safe.directory",
             "VALUE_1": "/work/agent_jobs/7f1e/repo"},
        ),
        ({"COUNT": "many"}, {"COUNT": "many"}),
        ({"COUNT": "9" * 5000}, {"COUNT": "9" * 5000}),
        ({"COUNT": "1", "KEY_1": "theirs"}, {"COUNT": "1", "KEY_1": "theirs"}),
    ],
)  # fmt: skip
def test_git_is_told_that_the_checkout_is_safe(
    env: dict[str, str], expected: dict[str, str]
) -> None:
    raw = enabled(env={f"GIT_CONFIG_{name}": value for name, value in env.items()})
    assert git_settings(raw | {"repository": "team/game"}) == {
        f"GIT_CONFIG_{name}": value for name, value in expected.items()
    }


def test_git_keeps_what_its_image_tells_it() -> None:
    config = {"Env": ["PATH=/bin", "GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=user.name"]}
    image = image_of({"Id": "sha256:1", "Config": config}, "node:22")
    spec = compiled(enabled() | {"repository": "team/game"})
    environment = create_arguments(spec, image, (1, 41))["environment"]
    assert (environment["GIT_CONFIG_COUNT"], environment["GIT_CONFIG_KEY_2"]) == (
        "3",
        "safe.directory",
    )
    assert "GIT_CONFIG_KEY_0" not in environment


def test_without_a_repository_git_is_told_nothing() -> None:
    assert git_settings(enabled()) == {}


WORKS = """
set -e
git status --porcelain; git log --format=%s
echo new > new.txt; echo more >> run.sh; echo more >> deep/er/file; rm link; mkdir made
git add --all; git -c user.name=T -c user.email=t@example.org commit --quiet --message Second
git log --format=%s
stat --format='%n %a %u' . deep deep/er/file run.sh
"""
OUTPUTS = [{"path": "**/*"}]


def works_in(repository: str, script: str = WORKS, **container: Any) -> Any:
    given = payload("sh", "-c", script, image=PYTHON, outputs=OUTPUTS, **container)
    return given | {"repository": repository}


def require_worked(run: Finished) -> dict[str, tuple[int, int]]:
    """The mode and the owner of each file, as the container saw them at its end."""
    assert run.state.is_completed(), (run.message, run.output)
    first, second, third, *seen = run.output.splitlines()
    assert [first, second, third] == ["First", "Second", "First"]
    made = {path.name for path in run.file("container/outputs").rglob("*") if path.is_file()}
    # What was checked out and left alone is no output.
    assert {"new.txt", "run.sh", "file"} <= made, made
    return {name: (int(mode, 8), int(uid)) for name, mode, uid in map(str.split, seen)}


@pytest.mark.docker
async def test_a_container_of_another_user_owns_the_checkout_of_a_worker_that_is_root(
    repository: str, runner: Runner
) -> None:
    need_root("gives files away")
    run = await runner(works_in(repository, user="1234"))
    assert require_worked(run) == {
        name: (AS_GIT_MADE_THEM[name], 1234) for name in AS_GIT_MADE_THEM
    }


@pytest.mark.docker
async def test_what_was_only_checked_out_is_no_output_whoever_it_was_given_to(
    repository: str, runner: Runner
) -> None:
    need_root("gives files away")
    run = await runner(works_in(repository, "echo new > new.txt", user="1234"))
    (collected,) = run.run_json["outputs"]
    assert collected["collected"] == 1, collected
    names = [path.name for path in run.file("container/outputs").rglob("*") if path.is_file()]
    assert names == ["new.txt"]


@pytest.fixture(scope="module")
def runs(prefect_api: None, repository: str) -> Iterator[dict[str, Finished]]:
    """By a worker that is not root."""
    with home_of_user() as home:
        settings = {
            "MOONMIND_HELPER_IMAGE": BUSYBOX,
            "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        }
        users = {"root": {}, "itself": {"user": str(USER)}, "another": {"user": "1234"},
                 "a name": {"user": "nobody"}}  # fmt: skip
        payloads = {name: works_in(repository, **keys) for name, keys in users.items()}
        yield run_payloads(home, payloads, settings)


@pytest.mark.docker
@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "others_may_write"),
    [("root", False), ("itself", False), ("another", False), ("a name", True)],
)
def test_git_works_in_a_container_of_a_worker_that_is_not_root(
    runs: dict[str, Finished], name: str, others_may_write: bool
) -> None:
    seen = require_worked(runs[name])
    assert {uid for _, uid in seen.values()} == {USER}
    assert {bool(mode & 0o2) for mode, _ in seen.values()} == {others_may_write}
    assert runs[name].run_json["cleanupError"] is None
