"""What of a job's folder is collected, from a folder that a stranger's container has filled."""

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from flows.masking import Masker
from flows.outputs.collect import Collection, CollectLimits
from flows.outputs.collect import collect as collect_outputs
from flows.outputs.manifest import OutputsManifest
from flows.spec import ContainerSpec
from flows.workspace.folder import Workspace
from flows.workspace.tree import MAX_DEPTH
from tests.hosts import disk, fill, need_root
from tests.runs import payload
from tests.specs import RUN, compiled

SCHEMA = Path(__file__).parent.parent / "docs" / "outputs.schema.json"
REGENERATE = (
    "python -c 'import json; from flows.outputs.manifest import OutputsManifest; print(json.dumps("
    'OutputsManifest.model_json_schema(by_alias=True, mode="serialization"), indent=2))\''
    " > docs/outputs.schema.json"
)
X = b"content"
NOTHING_SECRET = Masker()
SHA256 = hashlib.sha256(X).hexdigest()


@pytest.fixture
def job(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path, RUN.job_id)
    workspace.create("container")
    return workspace


def spec(*outputs: str | dict[str, Any]) -> ContainerSpec:
    given = [{"path": each} if isinstance(each, str) else each for each in outputs]
    return compiled(payload("true", outputs=given))


def collect(
    job: Workspace,
    given: ContainerSpec,
    limits: CollectLimits | None = None,
    *,
    masker: Masker | None = NOTHING_SECRET,
    ready_ns: int | None = None,
) -> Collection:
    return collect_outputs(job, given, masker, ready_ns, limits)


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(X)


def manifest(job: Workspace) -> Any:
    text = (job.artifacts / "container" / "metadata" / "outputs.json").read_text()
    found = json.loads(text)
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(found)
    return found


def paths(job: Workspace, output: int = 0) -> list[str]:
    return [file["path"] for file in manifest(job)["outputs"][output]["collected"]]


def reasons(job: Workspace, output: int = 0) -> dict[str, str]:
    return {each["path"]: each["reason"] for each in manifest(job)["outputs"][output]["rejected"]}


def test_the_published_schema_is_up_to_date() -> None:
    current = OutputsManifest.model_json_schema(by_alias=True, mode="serialization")
    assert json.loads(SCHEMA.read_text()) == current, f"run: {REGENERATE}"


def test_what_is_in_the_checkout_is_put_among_the_artifacts(job: Workspace) -> None:
    put(job.repo / "build" / "deep" / "a.zip", job.repo / "build" / "b.txt")
    found = collect(job, spec("build/**/*.zip"))
    kept = job.artifacts / "container" / "outputs" / "build" / "deep" / "a.zip"
    assert kept.read_bytes() == X
    assert manifest(job) == {
        "schemaVersion": 1,
        "jobId": RUN.job_id,
        "attempt": RUN.attempt,
        "outputs": [
            {
                "path": "build/**/*.zip",
                "required": False,
                "type": "file",
                "missing": False,
                "collected": [
                    {
                        "path": "container/outputs/build/deep/a.zip",
                        "sizeBytes": len(X),
                        "sha256": SHA256,
                    }
                ],
                "rejected": [],
                "rejectedLeftOut": 0,
            }
        ],
    }
    (result,) = found.outputs
    assert (result.collected, result.size_bytes, result.missing) == (1, len(X), False)
    assert found.error is None
    assert not (job.artifacts / "container" / "outputs" / "build" / "b.txt").exists()


def test_a_large_file_costs_no_second_copy(job: Workspace) -> None:
    put(job.repo / "a.zip")
    collect(job, spec("a.zip"))
    kept = job.artifacts / "container" / "outputs" / "a.zip"
    assert kept.samefile(job.repo / "a.zip")


def test_what_is_in_the_artifacts_folder_stays_where_it_is(job: Workspace) -> None:
    own = job.artifacts / "container"
    put(own / "coverage" / "x", own / "logs" / "runner.log", own / "metadata" / "run.json")
    collect(job, spec("$ARTIFACT_DIR/**", "$ARTIFACT_DIR/coverage/", "*.zip"))
    assert paths(job) == paths(job, 1) == ["container/coverage/x"]
    assert not (own / "outputs").exists()
    assert manifest(job)["outputs"][2]["missing"]


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("linked", [True, False], ids=["linked", "copied"])
def test_collecting_again_comes_to_the_same(job: Workspace, linked: bool) -> None:
    put(job.repo / "a.zip", job.repo / "dist" / "b", job.artifacts / "container" / "outputs" / "c")
    given = spec("a.zip", "dist/", "$ARTIFACT_DIR/**", "no")
    first = collect(job, given)
    before = everything(job.artifacts)
    if not linked:
        kept = job.artifacts / "container" / "outputs" / "a.zip"
        shutil.copy2(kept, kept.with_name("copy"))
        kept.with_name("copy").rename(kept)
    assert collect(job, given) == first
    assert everything(job.artifacts) == before


@pytest.mark.parametrize("in_the_way", ["file", "folder", "link"])
def test_what_the_task_itself_left_in_the_place_is_kept_beside(
    job: Workspace, in_the_way: str
) -> None:
    put(job.repo / "a.zip")
    place = job.artifacts / "container" / "outputs" / "a.zip"
    place.parent.mkdir(parents=True)
    match in_the_way:
        case "file":
            place.write_bytes(b"the task's own")
        case "folder":
            put(place / "inside")
        case "link":
            place.symlink_to("/etc/passwd")
    collect(job, spec("a.zip"))
    assert place.read_bytes() == X
    (beside,) = place.parent.glob("a.zip.*")
    assert beside.is_symlink() or beside.is_dir() or beside.read_bytes() == b"the task's own"
    assert Path("/etc/passwd").read_bytes() != X


def test_a_link_in_place_of_the_outputs_leads_nowhere(job: Workspace, tmp_path: Path) -> None:
    put(job.repo / "a.zip")
    outside = tmp_path / "host"
    outside.mkdir()
    (job.artifacts / "container" / "outputs").symlink_to(outside)
    collect(job, spec("a.zip"))
    assert list(outside.iterdir()) == []
    assert (job.artifacts / "container" / "outputs" / "a.zip").read_bytes() == X


def as_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            listening.bind(path.name)
        finally:
            os.chdir(here)


def as_device(path: Path) -> None:
    need_root("makes devices")
    os.mknod(path, 0o020666, os.makedev(1, 5))


def as_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 * 1024**4)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (as_link, "symlink"),
        (os.mkfifo, "fifo"),
        (as_socket, "socket"),
        (as_device, "device"),
        (as_sparse, "too-large"),
    ],
)
def test_what_is_no_file_to_keep_is_rejected_with_its_reason(
    job: Workspace, make: Callable[[Path], None], reason: str
) -> None:
    make(job.repo / "thing")
    found = collect(job, spec("thing"))
    assert reasons(job) == {"repo/thing": reason}
    assert (found.outputs[0].rejected, found.outputs[0].missing) == (1, True)
    assert [(row.result, row.reason) for row in found.rows] == [
        ("missing", None),
        ("rejected", reason),
    ]


def test_a_name_that_is_no_utf_8_is_rejected(job: Workspace) -> None:
    (job.repo / os.fsdecode(b"caf\xe9.zip")).write_bytes(X)
    collect(job, spec("*.zip"))
    assert reasons(job) == {"repo/caf\\xe9.zip": "not-utf-8"}


def test_a_checkout_that_has_become_a_link_is_not_entered(job: Workspace, tmp_path: Path) -> None:
    put(tmp_path / "host" / "secret.zip")
    job.repo.rmdir()
    job.repo.symlink_to(tmp_path / "host")
    found = collect(job, spec("*.zip"))
    assert found.outputs[0].missing
    assert "repo/" in (found.error or "")


def test_a_folder_that_is_too_deep_to_look_into_is_told(job: Workspace) -> None:
    descriptor = os.open(job.repo, os.O_RDONLY)
    for _ in range(MAX_DEPTH + 5):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    collect(job, spec("**/*.zip"))
    assert list(reasons(job).values()) == ["unreadable"]
    job.remove()


def limited(job: Workspace, given: Sequence[str], limits: CollectLimits) -> Collection:
    for number in range(5):
        put(job.repo / f"{number}.zip")
    return collect(job, spec(*given), limits)


def test_there_is_a_limit_to_the_files_that_outputs_have(job: Workspace) -> None:
    found = limited(job, ["*.zip", "0.zip"], CollectLimits(files=3))
    assert sum(output.collected for output in found.outputs) == 3
    assert sum(output.rejected for output in found.outputs) == 3
    assert {*reasons(job).values()} == {"too-many"}


def test_there_is_a_limit_to_the_bytes_that_outputs_have(job: Workspace) -> None:
    found = limited(job, ["*.zip"], CollectLimits(size_bytes=2 * len(X) + 1))
    assert (found.outputs[0].collected, found.outputs[0].rejected) == (2, 3)
    assert {*reasons(job).values()} == {"too-large"}


def test_a_file_of_several_outputs_counts_with_each_and_is_kept_once(job: Workspace) -> None:
    found = limited(job, ["*.zip", "[01].zip"], CollectLimits(size_bytes=5 * len(X)))
    assert [output.collected for output in found.outputs] == [5, 2]


def test_test_reports_are_those_of_their_outputs(job: Workspace) -> None:
    put(job.repo / "out" / "a.xml", job.repo / "b.xml")
    found = collect(job, spec("b.xml", {"path": "out/", "type": "junit"}))
    assert found.reports == (("container", "outputs", "out", "a.xml"),)


def test_outputs_on_a_disk_without_space_are_told_and_break_nothing(tmp_path: Path) -> None:
    with disk(tmp_path, "4m") as folder:
        workspace = Workspace(folder / "jobs", RUN.job_id)
        workspace.create("container")
        put(workspace.repo / "a.zip")
        fill(workspace.repo)
        found = collect(workspace, spec("a.zip"))
        assert "outputs.json: No space left" in (found.error or "")
        assert found.outputs[0].collected + found.outputs[0].rejected == 1


def dig(top: Path, names: Sequence[str]) -> int:
    """A descriptor of the last of so many folders in one another, however long their path."""
    descriptor = os.open(top, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    return descriptor


def test_a_chain_of_folders_costs_its_length_and_not_the_square_of_it(job: Workspace) -> None:
    for number in range(4):
        os.close(dig(job.repo, [f"chain{number}", *["d"] * 899]))
    began = time.process_time()
    found = collect(job, spec("**/*.zip"))
    assert (found.error, found.outputs[0].missing) == (None, True)
    assert time.process_time() - began < 2
    job.remove()


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (CollectLimits(looks=20), "which has more files and folders than are looked at"),
        (CollectLimits(seconds=-1), "which takes too long to look through"),
    ],
)
def test_folders_without_a_file_are_not_looked_through_for_ever(
    job: Workspace, limits: CollectLimits, told: str
) -> None:
    for number in range(30):
        (job.repo / f"{number}").mkdir()
    found = collect(job, spec("**/*.zip", "$ARTIFACT_DIR/**"), limits)
    assert found.error == (
        f"outputs were not sought in all of repo/, {told}: name their folders in "
        "task.container.outputs"
    )
    assert manifest(job)["outputs"][0]["missing"]


def test_files_under_long_paths_are_rejected_and_told_shortly(job: Workspace) -> None:
    descriptor = dig(job.repo, ["n" * 250] * 40)
    for number in range(20):
        os.close(os.open(f"{number}.zip", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    found = collect(job, spec("**/*.zip"))
    assert {each["reason"] for each in manifest(job)["outputs"][0]["rejected"]} == {"too-long"}
    assert max(len(row.path) for row in found.rows) == 300
    outputs_json = job.artifacts / "container" / "metadata" / "outputs.json"
    assert outputs_json.stat().st_size < 20 * 4500
    job.remove()


def test_there_is_a_limit_to_the_paths_that_outputs_have(job: Workspace) -> None:
    found = limited(job, ["*.zip"], CollectLimits(path_bytes=3 * len("container/outputs/0.zip")))
    assert (found.outputs[0].collected, found.outputs[0].rejected) == (3, 2)
    assert {*reasons(job).values()} == {"too-many"}


def test_no_secret_is_told_in_a_path(job: Workspace) -> None:
    put(job.repo / "s3cret-value.zip")
    (job.repo / "link-s3cret-value.zip").symlink_to("/")
    found = collect(job, spec("*.zip", "*s3cret-value*"), masker=Masker(["s3cret-value"]))
    assert "s3cret" not in repr((found.outputs, found.rows))
    assert "s3cret" not in json.dumps(manifest(job))
    assert paths(job) == ["container/outputs/***.zip"]
    assert (job.artifacts / "container" / "outputs" / "s3cret-value.zip").exists()


def test_without_the_secrets_no_path_is_told(job: Workspace) -> None:
    put(job.repo / "s3cret-value.zip")
    found = collect(job, spec("*.zip"), masker=None)
    assert [(row.output, row.path) for row in found.rows] == [("*.zip", "***")]
    assert "s3cret" not in json.dumps(manifest(job))


def test_what_was_in_the_checkout_before_is_no_output_of_the_task(job: Workspace) -> None:
    put(*(job.repo / name for name in ("old.zip", "dated.zip", "changed.zip", "a.zip")))
    ready_ns = job.now_ns()
    time.sleep(0.05)
    put(job.repo / "new.zip", job.artifacts / "container" / "own.zip")
    for touched in ("dated.zip", "new.zip"):
        os.utime(job.repo / touched, (0, 0))
    (job.repo / "changed.zip").write_bytes(X)
    (job.repo / "a.zip").rename(job.repo / "moved.zip")
    collect(job, spec("*.zip", "$ARTIFACT_DIR/*.zip"), ready_ns=ready_ns)
    assert reasons(job) == {"repo/old.zip": "stale"}
    assert [Path(path).name for path in paths(job)] == [
        "changed.zip", "dated.zip", "moved.zip", "new.zip",
    ]  # fmt: skip
    assert paths(job, 1) == ["container/own.zip"]
