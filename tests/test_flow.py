"""The whole flow, in this process, on a real Docker Engine and a real Prefect API."""

import json
import re
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from prefect import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)

from tests.hosts import disk
from tests.rendered import rows
from tests.runs import BUSYBOX, EAT_MEMORY, PYTHON, Finished, Runner, payload, shell

pytestmark = pytest.mark.docker
SCHEMA = Path(__file__).parent.parent / "docs" / "run.schema.json"


async def artifacts_of(run: Finished) -> dict[str, Any]:
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(
                flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run.job_id)])
            )
        )
    return {artifact.key or "": artifact.data for artifact in found}


async def logs_of(run: Finished) -> str:
    async with get_client() as client:
        records = await client.read_logs(
            LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(run.job_id)])), limit=200
        )
    return "\n".join(record.message for record in records)


async def test_a_task_runs_and_its_results_are_published(runner: Runner) -> None:
    run = await runner(
        shell(
            "echo to-stdout; echo to-stderr >&2; mkdir -p $ARTIFACT_DIR/deep; "
            "printf abc > $ARTIFACT_DIR/deep/out.txt; ln -s /etc/passwd $ARTIFACT_DIR/link",
            env={"GREETING": "hi"},
            resources={"cpus": 0.5, "memory": "64m"},
        )
    )
    assert (run.state.type.value, run.state.name) == ("COMPLETED", "Completed")
    # Each stream in its order; between the two, the order is the engine's.
    assert sorted(run.output.splitlines()) == ["to-stderr", "to-stdout"]
    facts = run.run_json
    Draft202012Validator(json.loads(SCHEMA.read_text()), format_checker=FormatChecker()).validate(
        facts
    )
    assert facts["outcome"] == "succeeded"
    assert facts["exitCode"] == 0
    assert facts["containerName"] == f"mm-task-{run.job_id}-1"
    assert facts["artifactDir"] == f"/work/agent_jobs/{run.job_id}/artifacts/container"
    assert datetime.fromisoformat(facts["startedAt"]) <= datetime.fromisoformat(facts["finishedAt"])
    listed = {item["path"]: item for item in facts["artifacts"]}
    assert listed["container/deep/out.txt"] == {
        "path": "container/deep/out.txt",
        "kind": "file",
        "sizeBytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    assert (listed["container/link"]["kind"], listed["container/link"]["sha256"]) == (
        "symlink",
        None,
    )
    assert "container/logs/runner.log" in listed
    stages = run.file("logs/execute.log").read_text()
    assert "Prepared" in stages
    assert "Ended succeeded" in stages
    shown = await artifacts_of(run)
    assert "to-stderr" in shown["container-run"]
    assert "container/deep/out.txt" in shown["container-run"]
    assert {"key": "outcome", "value": "succeeded"} in rows(shown["container-run-metadata"])


async def test_the_container_gets_exactly_the_documented_surroundings(runner: Runner) -> None:
    run = await runner(
        shell(
            "pwd; env | sort; ls /work/agent_jobs; nproc; cat /proc/self/status | grep NoNewPrivs;"
            "touch $ARTIFACT_DIR/writable ./in-repo",
            env={"MY_KEY": "a b=c"},
        )
    )
    lines = run.output.splitlines()
    folder = f"/work/agent_jobs/{run.job_id}"
    assert lines[0] == f"{folder}/repo"
    assert f"JOB_ID={run.job_id}" in lines
    assert "REPOSITORY=" in lines
    assert f"ARTIFACT_DIR={folder}/artifacts/container" in lines
    assert "MY_KEY=a b=c" in lines
    assert next(line for line in lines if line.startswith("NoNewPrivs")).split()[1] == "1"
    assert lines.count(run.job_id) == 1, "no other job's folder is visible"
    assert run.state.is_completed()


@pytest.mark.parametrize(
    "arguments",
    [["a b", "", "$HOME", "*", "'", '"', "\\", "ü", " lead", "--", "line\nbreak", "{{ x }}"]],
)
async def test_the_command_arrives_verbatim(runner: Runner, arguments: list[str]) -> None:
    run = await runner(
        payload("sh", "-c", 'for a in "$@"; do printf "%s\\0" "$a"; done', "x", *arguments)
    )
    assert run.output.split("\0")[:-1] == arguments


@pytest.mark.parametrize(
    ("task", "state_name", "outcome", "exit_code", "sentence"),
    [
        (shell("echo boom; exit 3"), "Failed", "failed", 3, "exited 3.*Its last line: boom"),
        (payload("nosuch"), "Failed", "failed", 127, "'nosuch'.* is in the image"),
        (shell("kill -SEGV $$"), "Failed", "failed", 139, "ended by SIGSEGV"),
        (payload("sleep", "60", timeoutSeconds=1), "TimedOut", "timed-out", 143, "limit of 1 s"),
        (
            shell(f"{EAT_MEMORY}; exit 9", resources={"memory": "16m"}),
            "OutOfMemory",
            "out-of-memory",
            9,
            "at its limit of 16 MiB: raise task.container.resources.memory",
        ),
        (payload("true", workdir="/no/such"), "Failed", "failed", None, "no folder /no/such"),
        # Debian's /var/run is a link: Docker makes the folder at its end.
        (
            payload("true", image=PYTHON, workdir="/var/run/nosuch"),
            "Failed",
            "failed",
            None,
            "no folder /var/run/nosuch",
        ),
        (
            payload("true", workdir="/etc/passwd/x"),
            "Rejected",
            "rejected",
            None,
            "/etc/passwd/x is not a folder in the image",
        ),
        (
            payload("true", image="moonmind-local/none:1"),
            "ImageError",
            "image-error",
            None,
            "is not on this host",
        ),
        (
            payload("true", image="127.0.0.1:9/none:1", pull="always"),
            "ImageError",
            "image-error",
            None,
            "cannot pull the image 127.0.0.1:9/none:1.*refused",
        ),
        (payload("true", resources={"cpus": 4096}), "Rejected", "rejected", None, "CPUs"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
async def test_every_end_has_its_state_its_sentence_and_its_run_json(
    runner: Runner, task: Any, state_name: str, outcome: str, exit_code: int | None, sentence: str
) -> None:
    run = await runner(task)
    assert (run.state.type.value, run.state.name) == ("FAILED", state_name)
    assert re.search(sentence, run.message), run.message
    facts = run.run_json
    assert (facts["outcome"], facts["exitCode"]) == (outcome, exit_code)
    assert facts["timedOut"] is (outcome == "timed-out")
    assert facts["error"]
    logs = await logs_of(run)
    assert "Traceback" not in logs
    assert f"Ended {outcome}" in run.file("logs/execute.log").read_text()


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        (shell("true", cacheVolumes=[{"name": "/etc", "target": "/x"}]), "cacheVolumes[0].name"),
        (payload("true", task={"publish": {"mode": "pr"}}), "task.publish.mode"),
        ({"task": {"container": {"$ref": "#/x"}}}, "$ref"),
        ("not an object", "payload"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_bad_payload_is_rejected_with_its_place_and_leaves_nothing(
    runner: Runner, jobs_folder: Path, bad: Any, where: str
) -> None:
    run = await runner(bad)
    assert (run.state.type.value, run.state.name) == ("FAILED", "Rejected")
    assert where in run.message
    assert not run.folder.exists()
    assert "# Rejected" in (await artifacts_of(run))["container-run"]


async def test_all_faults_are_told_at_once(runner: Runner) -> None:
    run = await runner({"task": {"container": {"enabled": "yes", "image": "A B", "cmd": []}}})
    for word in ("task.container.image", "task.container.command", "task.container.cmd"):
        assert word in run.message


async def test_a_worker_refuses_what_it_has_no_capability_for(runner: Runner) -> None:
    run = await runner(shell("true") | {"requiredCapabilities": ["gpu", "DOCKER"]})
    assert run.state.name == "Rejected"
    assert "lacks the capability gpu" in run.message
    assert not run.folder.exists()


async def test_a_cache_volume_outlives_its_run_and_somebody_elses_volume_is_refused(
    runner: Runner,
) -> None:
    cache, foreign = "moonmind_test_cache", "moonmind_test_foreign"
    mount = [{"name": cache, "target": "/cache"}]
    subprocess.run(["docker", "volume", "create", foreign], capture_output=True, check=True)
    try:
        assert (
            await runner(shell("echo kept > /cache/file", cacheVolumes=mount))
        ).state.is_completed()
        again = await runner(shell("cat /cache/file", cacheVolumes=mount))
        assert again.output == "kept\n"
        refused = await runner(shell("true", cacheVolumes=[{"name": foreign, "target": "/cache"}]))
        assert refused.state.name == "Rejected"
        assert f"the volume '{foreign}' exists" in refused.message
    finally:
        subprocess.run(["docker", "volume", "rm", cache, foreign], capture_output=True, check=True)


async def test_a_task_that_wrecks_its_artifacts_folder_still_delivers_its_log(
    runner: Runner, tmp_path: Path
) -> None:
    run = await runner(
        shell(
            "echo before; rm -rf $ARTIFACT_DIR/logs $ARTIFACT_DIR/metadata; "
            f"ln -s {tmp_path} $ARTIFACT_DIR/metadata; ln -s {tmp_path} $ARTIFACT_DIR/logs; "
            "mkfifo $ARTIFACT_DIR/pipe; echo after"
        )
    )
    assert run.state.is_completed()
    assert run.output == "before\nafter\n"
    assert list(tmp_path.iterdir()) == [], "nothing was written through the links"


async def test_a_task_that_fills_the_disk_still_gets_its_run_json(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk(tmp_path, "2m") as folder:
        monkeypatch.setenv("MOONMIND_WORKDIR", str(folder / "jobs"))
        run = await Runner(folder / "jobs")(
            shell("cat /dev/zero > $ARTIFACT_DIR/filler; echo was full")
        )
        assert run.state.is_completed()
        assert run.run_json["outcome"] == "succeeded"
        listed = {item["path"]: item["sizeBytes"] for item in run.run_json["artifacts"]}
        assert listed["container/filler"] > 1024**2


async def test_a_task_cannot_rewrite_its_log(runner: Runner) -> None:
    run = await runner(shell("echo abc; printf forg > $ARTIFACT_DIR/logs/runner.log"))
    assert run.output == "abc\n"
    assert run.run_json["logs"] == {
        "bytes": 4,
        "lines": 1,
        "complete": True,
        "droppedFromUi": 0,
        "reconnects": 0,
    }


async def test_the_run_is_named_after_what_it_does(runner: Runner) -> None:
    run = await runner(payload("echo", "hello world"))
    async with get_client() as client:
        flow_run = await client.read_flow_run(run.state.state_details.flow_run_id)  # type: ignore[arg-type]
        task_runs = await client.read_task_runs()
    assert flow_run.name == f"{BUSYBOX} · echo 'hello world'"
    assert {"prepare", "execute", "publish"} <= {task_run.name for task_run in task_runs}
