"""A worker that is not root, and containers of any user: a real process, a real engine."""

import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from tests.other_user import USER, home_of_user, run_payloads
from tests.runs import BUSYBOX, Finished, left_on_engine, shell

pytestmark = [pytest.mark.docker, pytest.mark.thorough]

EVERYWHERE = """
for folder in . $ARTIFACT_DIR; do
  cd $folder; umask 077
  echo secret > private; mkdir -p closed/deeper; echo secret > closed/deeper/file
  echo locked > none; chmod 0 none; mkdir shut; echo inside > shut/file; chmod 0 shut
  mkfifo pipe; ln -s /etc/passwd link; echo setuid > program
  chown -R -h USER:USER . ; chmod 6755 program
done
echo the end
"""
AS_ROOT, AS_ANOTHER = EVERYWHERE.replace("USER", "0"), EVERYWHERE.replace("USER", "1234")
TAKE_IT_ALL = "chown -R 0:0 /work/agent_jobs/$JOB_ID; chmod -R go= /work/agent_jobs/$JOB_ID\n"
AGAIN = {"exitCodes": {"3": 1}}
PAYLOADS = {
    "root": shell(AS_ROOT),
    "another user": shell(AS_ANOTHER),
    "root, twice": shell(f"{AS_ROOT}{TAKE_IT_ALL}exit 3", retry=AGAIN),
    "another user, twice": shell(f"{AS_ANOTHER}exit 3", retry=AGAIN),
    "all of it": shell(f"echo out > $ARTIFACT_DIR/out; {TAKE_IT_ALL}echo the end"),
    "its logs": shell(
        "cd $ARTIFACT_DIR; rm -r logs metadata; mkfifo logs; ln -s /etc metadata; echo the end"
    ),
    "its outputs": shell(
        f"umask 077; mkdir build; echo result > build/a.txt; {TAKE_IT_ALL}echo the end",
        outputs=[{"path": "build/", "required": True}],
    ),
}


@pytest.fixture(scope="module")
def runs(prefect_api: None) -> Iterator[dict[str, Finished]]:
    """Every payload's run, by a worker that is not root."""
    with home_of_user() as home:
        settings = {
            "MOONMIND_HELPER_IMAGE": BUSYBOX,
            "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        }
        yield run_payloads(home, PAYLOADS, settings)


WITHOUT_HELPER = {
    "its artifacts": shell(
        "echo out > $ARTIFACT_DIR/out; chown -R 0:0 ..; chown 12345 ..; chmod 700 ../artifacts;"
        "echo the end; exit 3",
        retry=AGAIN,
    ),
    "one file": shell("umask 077; echo out > $ARTIFACT_DIR/out; echo the end; exit 3", retry=AGAIN),
}


@pytest.fixture(scope="module")
def runs_without_helper(prefect_api: None) -> Iterator[dict[str, Finished]]:
    """The same worker's, where the helper's image cannot be had."""
    with home_of_user() as home:
        settings = {
            "MOONMIND_HELPER_IMAGE": "127.0.0.1:9/none:1",
            "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        }
        yield run_payloads(home, WITHOUT_HELPER, settings)


@pytest.mark.parametrize("name", WITHOUT_HELPER)
def test_without_the_helper_the_outcome_stands_and_a_sentence_tells(
    runs_without_helper: dict[str, Finished], name: str
) -> None:
    run = runs_without_helper[name]
    facts = run.run_json
    assert (facts["outcome"], facts["exitCode"], facts["attempt"]) == ("failed", 3, 2)
    assert "could not all be given back: cannot pull the image 127" in facts["cleanupError"]
    assert "\n" not in facts["cleanupError"]
    assert run.output == "the end\n"
    assert facts["logs"]["complete"]
    assert list(run.folder.parent.glob("**/out")), "results are not thrown away"


def everything(folder: Path) -> list[Path]:
    return [folder, *folder.rglob("*")]


@pytest.mark.parametrize("name", PAYLOADS)
def test_what_a_container_left_is_the_workers(runs: dict[str, Finished], name: str) -> None:
    run = runs[name]
    assert run.run_json["cleanupError"] is None
    assert left_on_engine(run.job_id) == []
    for path in everything(run.folder):
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode):
            assert found.st_uid == USER, path
            assert found.st_mode & 0o400, path
            assert not found.st_mode & 0o6000, path


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_results_are_published_whole(runs: dict[str, Finished], name: str) -> None:
    run = runs[name]
    listed = {each["path"]: each for each in run.run_json["artifacts"]}
    files = [path for path in run.file("container").rglob("*") if path.is_file()]
    assert files
    for path in files:
        relative = str(path.relative_to(run.folder / "artifacts"))
        if not relative.endswith("run.json") and not path.is_symlink():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert listed[relative]["sha256"] == digest, relative
    assert run.output == "the end\n"
    assert run.run_json["logs"]["complete"]


def test_outputs_of_another_user_are_collected(runs: dict[str, Finished]) -> None:
    done = runs["its outputs"]
    assert done.run_json["outcome"] == "succeeded"
    assert done.run_json["outputs"][0]["collected"] == 1
    assert done.file("container/outputs/build/a.txt").read_text() == "result\n"


@pytest.mark.parametrize("name", [name for name in PAYLOADS if "twice" in name])
def test_a_second_attempt_follows_and_the_results_of_the_first_are_kept(
    runs: dict[str, Finished], name: str
) -> None:
    run = runs[name]
    assert run.run_json["attempt"] == 2
    kept = run.folder / "attempts" / "1" / "container"
    assert (kept / "closed" / "deeper" / "file").read_text() == "secret\n"
    assert (kept / "metadata" / "run.json").exists()
    others = [each.name for each in run.folder.parent.iterdir() if run.job_id in each.name]
    assert others == [run.job_id], "nothing is left beside it"
