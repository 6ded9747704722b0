"""The progress of long runs: what the API is asked for, and that it stops."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.logging import get_logger
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.attempt import Executed
from flows.engine.contract import Measured
from flows.engine.types import Point
from flows.outcome import FailureClass, Outcome, OutcomeName
from flows.report.names import PROGRESS_KEY
from flows.report.progress import (
    COLLECTING,
    PUBLISHING,
    UPLOADING,
    RunProgress,
    end_progress,
    moments,
    running_text,
)
from flows.spec import ContainerSpec
from flows.workspace.logs import LogFacts
from tests.runs import Runner, shell
from tests.specs import NOW, compiled
from tests.strategies import FULL

NOBODY: dict[Any, Any] = {
    PREFECT_API_URL: "http://127.0.0.1:1/api",
    PREFECT_CLIENT_MAX_RETRIES: 0,
}
MEASURED = Measured(points=(Point(1, 2**30, 1.0), Point(2, 5 * 2**28, 2.0), Point(3, None, None)))


def soon() -> Iterator[float]:
    return itertools.count(0.05, 0.05)


def never() -> Iterator[float]:
    return iter([60.0])


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


@pytest.fixture
async def spec(client: PrefectClient) -> ContainerSpec:
    """Of a flow run that the API knows."""

    @flow(name="nothing")
    def nothing() -> None:
        """It only has to be there."""

    return replace(compiled(FULL), job_id=str((await client.create_flow_run(nothing)).id))


async def shown(client: PrefectClient, job_id: str) -> list[Artifact]:
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(job_id)]))
    found = await client.read_artifacts(artifact_filter=wanted)
    return [each for each in found if each.key == PROGRESS_KEY]


async def until_shown(client: PrefectClient, job_id: str, begins: str) -> Artifact:
    deadline = time.monotonic() + 60
    while True:
        found = await shown(client, job_id)
        if found and (found[0].description or "").startswith(begins):
            return found[0]
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.02)


def executed(seconds: float, outcome: Outcome | None = None) -> Executed:
    outcome = outcome or Outcome(OutcomeName.SUCCEEDED, exit_code=0)
    return Executed(outcome, LogFacts(0, 0, 0, None, ""), NOW, NOW + timedelta(seconds=seconds))


def test_it_is_shown_ever_more_seldom() -> None:
    assert list(itertools.islice(moments(), 6)) == [10, 20, 40, 100, 160, 220]


@pytest.mark.parametrize(
    ("changes", "measured", "said"),
    [
        ({}, MEASURED, "Running for 3 min of at most 1 h; memory 1.25 GiB of 16 GiB"),
        ({"memory_bytes": None}, MEASURED, "Running for 3 min of at most 1 h; memory 1.25 GiB"),
        ({"attempt": 1}, Measured(), "Running for 3 min of at most 1 h"),
        ({"attempt": 2}, Measured(), "Attempt 2: running for 3 min of at most 1 h"),
    ],
)
def test_it_says_how_long_and_how_much(
    changes: dict[str, Any], measured: Measured, said: str
) -> None:
    spec = replace(compiled(FULL), **{"attempt": 1, **changes})
    assert running_text(spec, 180.4, measured) == said


async def test_a_run_is_shown_as_one_artifact_until_its_end(
    client: PrefectClient, spec: ContainerSpec
) -> None:
    said: list[str] = []
    # Another process went on with it, and then another attempt was made.
    for attempt in (1, 1, 2):
        tried = replace(spec, attempt=attempt, timeout_seconds=100)
        async with RunProgress(tried, said.append, soon) as progress:
            progress.begin(50.0 if attempt == 1 else 100.0, MEASURED)
            begins = "Running for 50 s of" if attempt == 1 else "Attempt 2: running for 0."
            artifact = await until_shown(client, spec.job_id, begins)
            assert artifact.type == "progress"
    failed = Outcome(OutcomeName.FAILED, FailureClass.EXIT_CODE, "exited *3*", exit_code=3)
    await end_progress(client, spec.job_id, executed(200, failed), get_logger())
    (ended,) = await shown(client, spec.job_id)
    assert (ended.data, ended.description) == (100.0, "failed after 3 min 20 s")
    assert ended.id == artifact.id
    assert said == []


async def test_what_follows_the_container_is_shown_by_its_name_where_it_takes_long(
    client: PrefectClient, spec: ContainerSpec
) -> None:
    said: list[str] = []
    tried = replace(spec, attempt=1, timeout_seconds=100)
    async with RunProgress(tried, said.append, soon, after_seconds=0.1) as progress:
        progress.begin(50.0, MEASURED)
        await until_shown(client, spec.job_id, "Running for 50 s of")
        for doing in (COLLECTING, UPLOADING):
            progress.goes_on(doing)
            artifact = await until_shown(client, spec.job_id, doing.capitalize())
            assert 50 <= float(str(artifact.data)) < 60
    assert said == []


async def test_what_follows_a_container_quickly_asks_the_api_for_nothing() -> None:
    said: list[str] = []
    with temporary_settings(NOBODY):
        async with RunProgress.after(compiled(FULL), executed(60), said.append) as progress:
            for doing in (PUBLISHING, UPLOADING):
                progress.goes_on(doing)
                await asyncio.sleep(0)
    assert (said, progress.is_shown) == ([], False)


async def test_a_run_whose_files_alone_took_long_is_shown_to_its_end(
    client: PrefectClient, spec: ContainerSpec
) -> None:
    # Nine seconds of a container that show nothing, and an upload that goes on.
    ended = executed(9)
    async with RunProgress.after(replace(spec, attempt=1), ended, print) as progress:
        progress.goes_on(UPLOADING)
        artifact = await until_shown(client, spec.job_id, "Uploading its files")
        assert float(str(artifact.data)) < 100
    await end_progress(client, spec.job_id, ended, get_logger(), is_shown=progress.is_shown)
    (last,) = await shown(client, spec.job_id)
    assert (last.id, last.data, last.description) == (
        artifact.id, 100.0, "succeeded after 9 s",
    )  # fmt: skip


async def test_a_short_run_asks_the_api_for_nothing() -> None:
    said: list[str] = []
    with temporary_settings(NOBODY):
        async with RunProgress(compiled(FULL), said.append, never) as progress:
            progress.begin(1.0, MEASURED)
        async with get_client() as client:
            await end_progress(client, str(uuid4()), executed(9.9), get_logger())
    assert said == []


async def test_a_server_that_is_away_costs_the_artifact_alone() -> None:
    said: list[str] = []
    job_id = str(uuid4())
    with temporary_settings(NOBODY):
        async with RunProgress(
            replace(compiled(FULL), job_id=job_id), said.append, soon
        ) as progress:
            progress.begin(1.0, MEASURED)
            while not said:
                await asyncio.sleep(0.01)
        async with get_client() as client:
            await end_progress(client, job_id, executed(100), get_logger())
    assert len(said) == 1
    assert said[0].startswith("The progress of the run is not shown any more: ConnectError")


async def test_a_server_that_never_answers_holds_no_run_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set()
        await reader.read()
        writer.close()

    heard, said = asyncio.Event(), list[str]()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    before = asyncio.all_tasks()
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        async with RunProgress(
            replace(compiled(FULL), job_id=str(uuid4())), said.append, soon
        ) as progress:
            progress.begin(1.0, MEASURED)
            await heard.wait()
            ends = time.monotonic()
    # Its client would wait for a minute.
    assert time.monotonic() - ends < 20
    named = {task for task in asyncio.all_tasks() - before if "_follow" in repr(task)}
    assert named == set()
    server.close()


@pytest.mark.docker
async def test_a_long_run_shows_its_progress_and_its_picture(
    runner: Runner, client: PrefectClient
) -> None:
    run = await runner(shell("sleep 11", resources={"memory": "64m"}))
    assert run.state.is_completed(), run.message
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run.job_id)]))
    found = {each.key: each for each in await client.read_artifacts(artifact_filter=wanted)}
    progress, usage = found[PROGRESS_KEY], found["container-run-usage"]
    assert progress.data == 100.0
    assert (progress.description or "").startswith("succeeded after 1")
    assert (usage.type, str(usage.data)[:26]) == ("image", "data:image/svg+xml;base64,")
    svg = run.file("container/metadata/usage.svg").read_text()
    assert "of its limit of 64 MiB" in svg
    assert "container/metadata/usage.svg" in {each["path"] for each in run.run_json["artifacts"]}
    assert "`container-run-usage`" in str(found["container-run"].data)


@pytest.mark.docker
async def test_a_short_run_has_neither(runner: Runner, client: PrefectClient) -> None:
    run = await runner(shell("true"))
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run.job_id)]))
    keys = {each.key for each in await client.read_artifacts(artifact_filter=wanted)}
    assert keys == {"container-run", "container-run-metadata"}
    assert not run.file("container/metadata/usage.svg").exists()


@pytest.mark.docker
@pytest.mark.parametrize("forged", ["echo '<svg/>' >", "ln -s /etc/passwd", "mkdir"])
async def test_a_file_that_the_task_left_in_the_pictures_place_is_not_shown_as_the_runners(
    runner: Runner, client: PrefectClient, forged: str
) -> None:
    place = "container/metadata/usage.svg"
    run = await runner(shell(f"cd $ARTIFACT_DIR; mkdir -p metadata; {forged} metadata/usage.svg"))
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run.job_id)]))
    found = {each.key: each for each in await client.read_artifacts(artifact_filter=wanted)}
    assert "container-run-usage" not in found
    assert "container-run-usage" not in str(found["container-run"].data)
    assert not run.file(place).exists()
    listed = [each["path"] for each in run.run_json["artifacts"]]
    assert place not in listed
    # What the task left is kept, under a name of its own.
    assert [path for path in listed if path.startswith(place)] or forged == "mkdir"


@pytest.mark.docker
async def test_a_list_that_the_task_left_in_the_place_of_outputs_json_is_not_the_runners(
    runner: Runner,
) -> None:
    run = await runner(
        shell("cd $ARTIFACT_DIR; mkdir -p metadata; echo {} > metadata/outputs.json")
    )
    assert not run.file("container/metadata/outputs.json").exists()
