"""The job's folder: who gets in, what a second attempt finds, what a full disk leaves."""

import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.errors import WorkdirMissing, WorkspaceError
from flows.workspace.folder import Workspace
from tests.hosts import NOBODY, as_nobody, disk, fill, need_root, nobodys_folder
from tests.runs import payload
from tests.specs import compiled

RUN_JSON = json.dumps({"padding": "x" * 100_000})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "jobs", "7f1e")


@pytest.fixture
def nobodys() -> Iterator[Workspace]:
    """The workspace of a worker that is not root; make it and use it `as_nobody`."""
    with nobodys_folder() as folder:
        yield Workspace(folder / "jobs", "7f1e")


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[Workspace]:
    with disk(tmp_path, "2m") as folder:
        yield Workspace(folder / "jobs", "7f1e")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def inside(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_folder_is_the_containers_and_the_root_is_the_workers(workspace: Workspace) -> None:
    workspace.create("reports/unit")
    assert mode(workspace.root) == 0o700
    for folder in (workspace.folder, *workspace.folder.rglob("*")):
        assert mode(folder) == 0o777, folder
    assert inside(workspace.folder) == [
        "artifacts", "artifacts/logs", "artifacts/reports", "artifacts/reports/unit",
        "artifacts/reports/unit/logs", "artifacts/reports/unit/metadata", "repo",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after"),
    [(0o777, 0o770), (0o711, 0o710), (0o755, 0o750), (0o2775, 0o2770), (0o700, 0o700)],
)
def test_a_root_that_was_there_is_closed_to_others(
    workspace: Workspace, before: int, after: int
) -> None:
    workspace.root.mkdir()
    workspace.root.chmod(before)
    workspace.create("container")
    assert mode(workspace.root) == after


def test_a_program_that_a_container_left_is_out_of_reach_of_the_hosts_users() -> None:
    with nobodys_folder() as open_to_all:
        workspace = Workspace(open_to_all / "jobs", "7f1e")
        workspace.root.mkdir(mode=0o711)
        workspace.create("container")
        program = workspace.repo / "shell"
        program.write_bytes(b"#!")
        program.chmod(0o4755)
        with as_nobody(), pytest.raises(PermissionError):
            program.stat()


def test_a_root_of_somebody_else_is_left_as_it_is(workspace: Workspace) -> None:
    need_root("gives a folder away")
    workspace.root.mkdir()
    workspace.root.chmod(0o755)
    os.chown(workspace.root, NOBODY, NOBODY)
    workspace.create("container")
    assert mode(workspace.root) == 0o755


def test_a_folder_that_everybody_shares_is_no_root(workspace: Workspace) -> None:
    workspace.root.mkdir()
    workspace.root.chmod(0o1777)
    with pytest.raises(WorkspaceError, match="name one of the worker's own in MOONMIND_WORKDIR"):
        workspace.create("container")
    assert mode(workspace.root) == 0o1777
    assert inside(workspace.root) == []


@pytest.mark.parametrize("name", ["x" * 300, "circle", "no/such"])
def test_a_workdir_that_cannot_be_is_refused_in_a_sentence(workspace: Workspace, name: str) -> None:
    workspace.create("container")
    (workspace.repo / "circle").symlink_to("circle")
    wanted = f"{workspace.mount.target}/repo/{name}"
    spec = compiled(payload("true", workdir=wanted), workspace.mount)
    with pytest.raises(WorkdirMissing, match="there is no folder"):
        workspace.require_workdir(spec)


def test_a_root_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkspaceError, match=r"cannot make the job folder .*Not a directory"):
        Workspace(tmp_path / "file" / "jobs", "7f1e").create("container")


def test_a_second_attempt_starts_afresh_and_keeps_the_results_of_the_first(
    workspace: Workspace,
) -> None:
    for attempt in (1, 2):
        workspace.create("container", attempt - 1 or None)
        assert inside(workspace.repo) == []
        assert list(workspace.artifacts.rglob("*.txt")) == []
        (workspace.repo / "built").touch()
        (workspace.artifacts / "container" / "result.txt").write_text(f"of attempt {attempt}")
    workspace.create("container", 2)
    workspace.move_into_place("container")
    for attempt in (1, 2):
        kept = workspace.folder / "attempts" / str(attempt) / "container" / "result.txt"
        assert kept.read_text() == f"of attempt {attempt}"
    assert sorted(os.listdir(workspace.root)) == [".runs", "7f1e"]


def test_results_are_kept_where_the_number_of_their_attempt_is_unknown_or_taken(
    workspace: Workspace,
) -> None:
    for earlier in (None, None, None, 1, 1):
        workspace.create("container", earlier)
        (workspace.artifacts / "result.txt").touch()
    workspace.move_into_place("container")
    kept = list((workspace.folder / "attempts").glob("*/result.txt"))
    assert sorted(path.parent.name.partition(".")[0] for path in kept) == [
        "1", "1", "earlier", "earlier",
    ]  # fmt: skip


def link_out(workspace: Workspace) -> None:
    outside = workspace.root.parent / "host"
    for name in ("attempts", "artifacts"):
        path = workspace.folder / name
        subprocess.run(["rm", "-rf", path], check=True)
        path.symlink_to(outside)


def file_in_the_way(workspace: Workspace) -> None:
    for name in ("attempts", "artifacts"):
        subprocess.run(["rm", "-rf", workspace.folder / name], check=True)
        (workspace.folder / name).touch()


@pytest.mark.parametrize("vandalise", [link_out, file_in_the_way])
def test_what_an_attempt_put_in_place_of_its_folders_is_not_taken_for_results(
    workspace: Workspace, vandalise: Callable[[Workspace], None]
) -> None:
    outside = workspace.root.parent / "host"
    outside.mkdir()
    (outside / "precious").touch()
    workspace.create("container")
    vandalise(workspace)
    workspace.create("container", 1)
    workspace.move_into_place("container")
    assert inside(workspace.folder / "attempts") == []
    assert inside(outside) == ["precious"]
    assert sorted(os.listdir(workspace.root)) == [".runs", "7f1e"]


def test_results_of_an_earlier_attempt_are_out_of_the_reach_of_the_next_ones_container(
    workspace: Workspace,
) -> None:
    workspace.create("container")
    (workspace.artifacts / "result.txt").write_text("of attempt 1")
    # Nothing that a first attempt calls so was made by the runner.
    (workspace.folder / "attempts" / "1").mkdir(parents=True)
    workspace.create("container", 1)
    assert sorted(os.listdir(workspace.folder)) == ["artifacts", "repo"]
    (workspace.folder / "attempts" / "1").mkdir(parents=True)
    (workspace.folder / "attempts" / "1" / "result.txt").write_text("forged")
    kept = workspace.earlier_results(1)
    assert kept is not None
    assert (kept / "result.txt").read_text() == "of attempt 1"
    workspace.move_into_place("container")
    assert workspace.earlier_results(1) == workspace.folder / "attempts" / "1"
    assert (workspace.folder / "attempts" / "1" / "result.txt").read_text() == "of attempt 1"
    workspace.remove()
    assert os.listdir(workspace.root) == [".runs"]
    assert inside(workspace.root / ".runs") == []


def test_results_that_an_earlier_version_left_in_the_jobs_folder_are_kept(
    workspace: Workspace,
) -> None:
    workspace.create("container")
    (workspace.folder / "attempts" / "1").mkdir(parents=True)
    (workspace.folder / "attempts" / "1" / "result.txt").touch()
    workspace.create("container", 2)
    workspace.move_into_place("container")
    assert inside(workspace.folder / "attempts" / "1") == ["result.txt"]


def test_a_worker_without_roots_rights_keeps_what_a_container_of_root_left(
    nobodys: Workspace,
) -> None:
    with as_nobody():
        nobodys.create("container")
    (nobodys.repo / "cache").mkdir(mode=0o755)
    (nobodys.repo / "cache" / "file").touch()
    (nobodys.artifacts / "result.txt").touch()
    with as_nobody():
        nobodys.create("container", 1)
        assert inside(nobodys.repo) == []
        (nobodys.artifacts / "writable").touch()
        nobodys.move_into_place("container")
    assert (nobodys.folder / "attempts" / "1" / "result.txt").exists()


@pytest.mark.parametrize("locked", [0o755, 0o700])
def test_a_folder_that_root_took_over_stays_whole_beside_the_next_attempts(
    nobodys: Workspace, locked: int
) -> None:
    with as_nobody():
        nobodys.create("container")
    (nobodys.artifacts / "result.txt").touch()
    for path in (nobodys.folder, nobodys.artifacts):
        os.chown(path, 0, 0)
        path.chmod(locked)
    with as_nobody():
        nobodys.create("container", 1)
        (nobodys.artifacts / "writable").touch()
    (kept,) = nobodys.root.glob("7f1e.attempt-1-*")
    assert (kept / "artifacts" / "result.txt").exists()


def test_what_the_worker_may_not_remove_is_out_of_the_way_until_somebody_may(
    nobodys: Workspace,
) -> None:
    with as_nobody():
        nobodys.create("container")
    (nobodys.repo / "cache").mkdir(mode=0o755)
    (nobodys.repo / "cache" / "file").touch()
    (nobodys.repo / "of-root").touch()
    with as_nobody():
        nobodys.remove()
        assert not nobodys.folder.exists()
    (left,) = nobodys.root.glob(".removed-*")
    assert [path.rpartition("/")[2] for path in inside(left)][-1] == "file"
    assert not list(left.rglob("of-root"))
    nobodys.create("container")
    nobodys.remove()
    assert os.listdir(nobodys.root) == [".runs"]


def test_folders_that_their_owner_locked_are_removed(nobodys: Workspace) -> None:
    with as_nobody():
        nobodys.create("container")
        for locked in (0o555, 0o000, 0o300):
            folder = nobodys.repo / oct(locked) / "module"
            folder.mkdir(parents=True)
            (folder / "file").touch(mode=0o444)
            folder.chmod(locked)
            folder.parent.chmod(locked)
        nobodys.folder.chmod(0)
        nobodys.remove()
        assert os.listdir(nobodys.root) == [".runs"]


def test_removing_follows_no_link_and_stops_at_no_depth(workspace: Workspace) -> None:
    workspace.create("container")
    outside = workspace.root.parent / "host"
    outside.mkdir(mode=0o755)
    (outside / "precious").touch()
    os.mkfifo(workspace.repo / "pipe")
    descriptor = os.open(workspace.repo, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("level", dir_fd=descriptor)
        os.symlink(outside, "link", dir_fd=descriptor)
        below = os.open("level", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    workspace.remove()
    assert os.listdir(workspace.root) == [".runs"]
    assert inside(workspace.root / ".runs") == []
    assert (inside(outside), mode(outside)) == (["precious"], 0o755)


def test_there_may_be_nothing_to_remove(workspace: Workspace) -> None:
    workspace.remove()
    workspace.create("container")
    workspace.remove()
    workspace.remove()
    assert not workspace.folder.exists()


def test_run_json_is_written_where_the_task_filled_the_disk(on_small_disk: Workspace) -> None:
    on_small_disk.create("container")
    fill(on_small_disk.artifacts)
    path = on_small_disk.write_run_json("container", RUN_JSON)
    assert path.read_text() == RUN_JSON
    assert os.listdir(path.parent) == ["run.json"]


def test_run_json_that_does_not_fit_is_an_error_and_leaves_the_one_before(
    on_small_disk: Workspace,
) -> None:
    on_small_disk.create("container")
    path = on_small_disk.write_run_json("container", RUN_JSON)
    fill(on_small_disk.artifacts)
    with pytest.raises(WorkspaceError, match=r"cannot write run\.json .*: No space left on device"):
        on_small_disk.write_run_json("container", RUN_JSON * 20)
    assert path.read_text() == RUN_JSON
    assert os.listdir(path.parent) == ["run.json"]


def test_a_disk_without_room_for_a_job_is_told_before_it_starts(on_small_disk: Workspace) -> None:
    on_small_disk.root.mkdir()
    fill(on_small_disk.root)
    with pytest.raises(WorkspaceError, match="No space left on device; MOONMIND_WORKDIR must"):
        on_small_disk.create("container")
    assert list(on_small_disk.root.rglob("*.ballast")) == []


def test_a_job_leaves_nothing_beside_its_folder(workspace: Workspace) -> None:
    workspace.create("container")
    workspace.write_run_json("container", "{}")
    assert inside(workspace.root / ".runs") == []


def test_a_log_stays_whole_where_its_folder_can_be_written_and_not_read(nobodys: Workspace) -> None:
    with as_nobody():
        nobodys.create("container")
    logs = nobodys.runner_log("container").parent
    os.chown(logs, 0, 0)
    logs.chmod(0o733)
    with as_nobody():
        log = nobodys.log_file(nobodys.runner_log("container"))
        log.write(b"whole\n")
        log.move_to_artifacts()
        log.close()
        nobodys.move_into_place("container")
    assert nobodys.runner_log("container").read_bytes() == b"whole\n"


def test_a_log_that_could_not_be_moved_is_kept_beside_the_next_attempt(nobodys: Workspace) -> None:
    with as_nobody():
        nobodys.create("container")
        log = nobodys.log_file(nobodys.runner_log("container"))
        log.write(b"of the first\n")
        log.close()
    os.chown(nobodys.folder, 0, 0)
    nobodys.folder.chmod(0o700)
    with as_nobody():
        nobodys.create("container", 1)
        kept = [path.read_bytes() for path in (nobodys.root / ".runs").glob("7f1e.*.runner.log")]
        assert kept == [b"of the first\n"]
        log = nobodys.log_file(nobodys.runner_log("container"))
        assert log.size_bytes == 0
        log.close()
