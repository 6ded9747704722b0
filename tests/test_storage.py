"""Runs whose results go to a storage: what is told, what a failure changes, who repairs it."""

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.exceptions import ObjectNotFound
from prefect.filesystems import LocalFileSystem, RemoteFileSystem
from prefect.states import AwaitingRetry
from prefect.types import SecretDict
from pydantic import ValidationError

from blocks.storage import ArtifactStorage
from flows.attempt import Executed, Upload
from flows.container_task import container_task
from flows.orphans import reap_orphans
from flows.outputs.upload_plan import UploadJournal, key_of, link, pending_uploads
from flows.report.artifacts import files_artifact
from flows.results import OutputRow, Results
from flows.runtime.store import AttemptStore
from tests.finished import finished
from tests.gate import Gate
from tests.runs import Finished, Runner, payload, shell
from tests.s3 import BUCKET, SECRET, Endpoint
from tests.specs import compiled

TASK = shell("echo result > $ARTIFACT_DIR/result.txt; exit $CODE", env={"CODE": "0"})


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    """Prefect's API, without a storage after the test as before it."""
    async with get_client() as client:
        yield client
        try:
            found = await client.read_block_document_by_name(
                "default", ArtifactStorage.get_block_type_slug()
            )
        except ObjectNotFound:
            return
        await client.delete_block_document(found.id)


async def save(storage: ArtifactStorage) -> Any:
    return await storage.asave("default", overwrite=True)


def to_s3(s3: Endpoint, url: str = "") -> ArtifactStorage:
    return ArtifactStorage(url=f"s3://{BUCKET}/runs", options=SecretDict(s3.options(url)))


async def artifacts(client: PrefectClient, run: Finished) -> dict[str, str]:
    """Data of the run's Prefect artifacts, by key."""
    of_run = ArtifactFilterFlowRunId(any_=[UUID(run.job_id)])
    found = await client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=of_run))
    assert len({each.key for each in found}) == len(found), "each is made once"
    return {str(each.key): str(each.data) for each in found}


@pytest.mark.docker
async def test_a_run_uploads_its_results_and_tells_where_they_are(
    client: PrefectClient, runner: Runner, s3: Endpoint
) -> None:
    await save(to_s3(s3))
    run = await runner(TASK)
    assert run.message == "exited 0"
    address = f"s3://{BUCKET}/runs/{run.job_id}/1"
    assert s3.read(f"runs/{run.job_id}/1/container/result.txt") == b"result\n"
    keys = set(s3.keys(f"runs/{run.job_id}/1/"))
    assert keys >= {"container/metadata/run.json", "logs/execute.log", "manifest.json"}
    made = await artifacts(client, run)
    assert made["container-run-files"] == f"`{address}`: [open]({address})"
    assert address in made["container-run"]
    assert SECRET not in str(made)
    assert pending_uploads(run.folder.parent) == []


@pytest.mark.docker
async def test_the_storage_is_read_anew_for_each_run(
    client: PrefectClient, runner: Runner, s3: Endpoint, tmp_path: Path
) -> None:
    first = await runner(TASK)
    await save(ArtifactStorage(url=f"file://{tmp_path}/one"))
    second = await runner(TASK)
    await LocalFileSystem(basepath=str(tmp_path / "two")).asave("results", overwrite=True)
    await save(ArtifactStorage(block="local-file-system/results"))
    third = await runner(TASK)
    remote = RemoteFileSystem(basepath=f"s3://{BUCKET}/three", settings=s3.options())
    await remote.asave("results", overwrite=True)
    await save(ArtifactStorage(block="remote-file-system/results"))
    fourth = await runner(TASK)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*/1/manifest.json")}
    assert found == {f"one/{second.job_id}/1/manifest.json", f"two/{third.job_id}/1/manifest.json"}
    assert "manifest.json" in s3.keys(f"three/{fourth.job_id}/1/")
    assert SECRET not in str(await artifacts(client, fourth))
    assert "container-run-files" not in await artifacts(client, first)


@pytest.mark.docker
async def test_a_failed_upload_changes_no_outcome_and_the_next_sweep_repairs_it(
    client: PrefectClient, runner: Runner, s3: Endpoint, jobs_folder: Path
) -> None:
    runs = {}
    with Gate(s3.port) as gate:
        gate.limit = 0
        await save(to_s3(s3, gate.http))
        for code, state in ((0, "COMPLETED"), (3, "FAILED")):
            run = await runner(shell(f"echo a > $ARTIFACT_DIR/a; exit {code}"))
            assert run.state.type == state
            assert run.message.startswith(f"exited {code}")
            told = "Its files are on its host and not uploaded: "
            assert told in run.message
            assert told in (await artifacts(client, run))["container-run"]
            assert run.run_json["outcome"] == ("failed" if code else "succeeded")
            runs[run.job_id] = run
        assert not [line for line in await reap_orphans(dry_run=True) if "still" in line]
        assert sorted(pending_uploads(jobs_folder)) == [(job_id, 1) for job_id in sorted(runs)]
        gate.limit = math.inf
        done = await reap_orphans()
        for job_id, run in runs.items():
            address = f"s3://{BUCKET}/runs/{job_id}/1"
            assert f"{job_id}: uploaded the files of attempt 1 to {address}" in done
            assert "container/a" in s3.keys(f"runs/{job_id}/1/")
            link = f"`{address}`: [open]({address})"
            assert (await artifacts(client, run))["container-run-files"] == link
            last = AttemptStore(jobs_folder, job_id).last()
            assert last is not None
            assert last.upload == Upload(address)
        assert pending_uploads(jobs_folder) == []
        assert not [line for line in await reap_orphans() if any(each in line for each in runs)]


@pytest.mark.docker
async def test_a_storage_that_is_none_is_told_and_changes_no_outcome(
    client: PrefectClient, runner: Runner, tmp_path: Path
) -> None:
    block_id = await save(ArtifactStorage(url=f"file://{tmp_path}/results"))
    wrong = {"data": {"url": "results", "parallel_uploads": 0}}
    answer = await client._client.patch(f"/block_documents/{block_id}", json=wrong)
    answer.raise_for_status()
    run = await runner(TASK)
    assert run.state.is_completed()
    assert "the block moonmind-artifact-storage/default is not valid (" in run.message
    assert "parallel_uploads: Input should be greater than or equal to 1" in run.message
    assert any("neither uploaded nor removed" in line for line in await reap_orphans())
    await save(ArtifactStorage(url=f"file://{tmp_path}/results"))
    await reap_orphans()
    assert (tmp_path / "results" / run.job_id / "1" / "manifest.json").is_file()


@pytest.mark.docker
async def test_results_of_an_earlier_attempt_are_uploaded_too_when_the_job_is_over(
    client: PrefectClient, runner: Runner, tmp_path: Path
) -> None:
    # A file is where the folder is to be, until the run is over.
    (tmp_path / "results").touch()
    await save(ArtifactStorage(url=f"file://{tmp_path}/results"))
    # Each attempt tries to leave an `a` to the one before it.
    script = (
        "echo $HOSTNAME > $ARTIFACT_DIR/a; cd /work/agent_jobs/$JOB_ID; ls; "
        "mkdir -p attempts/1/container; echo forged > attempts/1/container/a; exit 7"
    )
    run = await runner(shell(script, retry={"exitCodes": {"7": 1}}))
    assert run.file("container/logs/runner.log").read_text().split() == ["artifacts", "repo"]
    assert pending_uploads(run.folder.parent) == [(run.job_id, 1), (run.job_id, 2)]
    (tmp_path / "results").unlink()
    await reap_orphans()
    stored = [(tmp_path / "results" / run.job_id / n / "container" / "a") for n in ("1", "2")]
    assert len(stored[0].read_text()) == len("0123456789ab\n")
    assert stored[0].read_bytes() == (run.folder / "attempts/1/container/a").read_bytes()
    assert stored[1].read_bytes() == (run.folder / "artifacts/container/a").read_bytes()


@pytest.mark.docker
async def test_a_storage_that_is_given_up_leaves_nothing_pending(
    client: PrefectClient, runner: Runner, tmp_path: Path
) -> None:
    (tmp_path / "results").touch()
    await save(ArtifactStorage(url=f"file://{tmp_path}/results"))
    run = await runner(TASK)
    await save(ArtifactStorage())
    told = await reap_orphans()
    assert any(line.startswith(f"{run.job_id}: left the files of attempt 1") for line in told)
    assert not UploadJournal(run.folder.parent, run.job_id, 1).is_pending


@pytest.mark.docker
async def test_the_sweep_removes_job_folders_of_runs_that_are_over_and_of_no_others(
    client: PrefectClient, runner: Runner, jobs_folder: Path
) -> None:
    over = await runner(TASK)
    waiting = await client.create_flow_run(container_task, state=AwaitingRetry())
    finished(jobs_folder, job_id=str(waiting.id))
    # Of another installation on the same host, as this server knows no such run.
    elsewhere = finished(jobs_folder).prepared.workspace.folder
    await save(ArtifactStorage(keep_days=0))
    told = f"{over.job_id}: removed its folder, as it ended 0.0 days ago"
    assert told in await reap_orphans(dry_run=True)
    assert over.folder.is_dir()
    assert told in await reap_orphans()
    assert not over.folder.exists()
    assert (jobs_folder / str(waiting.id)).is_dir()
    assert elsewhere.is_dir()
    assert not [line for line in await reap_orphans() if over.job_id in line]
    AttemptStore(jobs_folder, str(waiting.id)).forget()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"url": "results"}, "takes a protocol and a path, such as s3://bucket/prefix"),
        ({"url": "file:///"}, "takes a protocol and a path"),
        ({"url": "s3://key:secret@bucket/x"}, "takes no password"),
        ({"url": "s3://bucket/x?token=1"}, "takes no password, no query and no fragment"),
        ({"url": "simplecache::s3://bucket/x"}, "takes one protocol"),
        ({"url": "s3://a/b", "block": "local-file-system/x"}, "takes a url or a block, not both"),
        ({"block": "results"}, "takes a block's type and name"),
        ({"parallel_uploads": 0}, "greater than or equal to 1"),
        ({"keep_days": -1}, "greater than or equal to 0"),
    ],
)
def test_a_storage_that_cannot_be_meant_is_refused_with_a_sentence(
    fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        ArtifactStorage(**fields)
    assert says in str(refusal.value)


def test_the_link_to_the_outputs_leads_where_they_are_uploaded(tmp_path: Path) -> None:
    attempt = finished(tmp_path)
    spec = compiled(payload("true", outputs=[{"path": "a"}], artifactsSubdir="manifest.json"))
    results = Results(rows=(OutputRow("a", "missing"),))
    attempt = replace(
        attempt,
        prepared=replace(attempt.prepared, spec=replace(spec, job_id=str(uuid4()))),
        executed=with_results(attempt.executed, results),
        upload=Upload("file:///srv"),
    )
    told = files_artifact(attempt).data
    key = key_of(("manifest.json", "metadata", "outputs.json"))
    assert key == "manifest%2Ejson/metadata/outputs.json"
    assert str(told).endswith(f"({link(f'file:///srv/{key}')})")
    # What nobody has looked at has no list of the runner's, whatever the task left in its place.
    unseen = replace(attempt, executed=with_results(attempt.executed, Results(error="it died")))
    assert "outputs.json" not in str(files_artifact(unseen).data)


def with_results(executed: Executed | None, results: Results) -> Executed:
    assert executed is not None
    return replace(executed, outcome=replace(executed.outcome, results=results))
