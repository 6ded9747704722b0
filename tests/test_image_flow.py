"""What a run shows of its image: the artifact, the log, `run.json`, and nothing of a password."""

import subprocess
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect_docker import DockerRegistryCredentials
from pydantic import SecretStr

from blocks.registries import CredentialsUnreadable, login_to
from flows.engine.images.auth import Login
from flows.report.names import PULL_PROGRESS_KEY
from tests.registry import PASSWORD, USER, Registry
from tests.runs import BUSYBOX, Finished, Runner, shell


@pytest.fixture(scope="module")
def program() -> bytes:
    """A static busybox."""
    command = ["docker", "run", "--rm", BUSYBOX, "cat", "/bin/busybox"]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    """Prefect's API, without credentials after the test as before it."""
    async with get_client() as client:
        yield client
        for each in await client.read_block_documents():
            if each.block_type_name == DockerRegistryCredentials.get_block_type_name():
                await client.delete_block_document(each.id)


async def save(name: str, registry: str, password: str = PASSWORD) -> None:
    block = DockerRegistryCredentials(
        username=USER, password=SecretStr(password), registry_url=registry
    )
    await block.asave(name, overwrite=True)


async def shown(client: PrefectClient, run: Finished) -> list[Artifact]:
    found = await client.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run.job_id)]))
    )
    return [each for each in found if each.key == PULL_PROGRESS_KEY]


def image_facts(run: Finished) -> Any:
    names = ("imagePlatform", "imageCacheHit", "failureClass")
    return tuple(run.run_json[name] for name in names)


@pytest.mark.docker
async def test_a_run_shows_its_pull_and_the_next_one_shows_none(
    runner: Runner, client: PrefectClient, registry: Registry, program: bytes
) -> None:
    image = f"{registry.host}/{registry.push_program(program)}"
    task = shell("exit 0", image=image, pull="if-missing")
    first = await runner(task)
    assert first.state.name == "Completed", first.message
    assert image_facts(first) == ("linux/amd64", False, None)
    assert first.run_json["imagePulledBytes"] > 100_000
    assert first.run_json["imagePullSeconds"] > 0
    assert first.run_json["imageDigest"].startswith("sha256:")
    (progress,) = await shown(client, first)
    assert (progress.type, progress.data) == ("progress", 100.0)
    assert (progress.description or "").startswith(f"{image}: 2 of 2 layers, ")
    log = first.file("logs/execute.log").read_text()
    assert f"Pulling {image}\n" in log
    assert f"Pulled {image}: {first.run_json['imageDigest']}, pulled " in log
    second = await runner(task)
    assert image_facts(second) == ("linux/amd64", True, None)
    assert (second.run_json["imagePulledBytes"], await shown(client, second)) == (0, [])


@pytest.mark.docker
async def test_credentials_are_those_of_the_ui_now_and_are_written_nowhere(
    runner: Runner, client: PrefectClient, private_registry: Registry, program: bytes
) -> None:
    image = f"{private_registry.host}/{private_registry.push_program(program)}"
    half = len(PASSWORD) // 2
    script = f"echo said {PASSWORD[:half]}''{PASSWORD[half:]}"
    task = shell(script, image=image, pull="if-missing")

    async def refused(says: str) -> None:
        run = await runner(task)
        assert (run.state.name, run.run_json["failureClass"]) == ("ImageError", "denied")
        assert says in run.message

    await refused("no basic auth credentials")
    await save("team", f"http://{private_registry.host}/v2/", "wrong-password")
    await refused("unauthorized")
    await save("team", f"http://{private_registry.host}/v2/")
    run = await runner(task)
    assert run.state.name == "Completed", run.message
    assert run.output == "said ***\n"
    root = run.folder.parent
    written = b"".join(each.read_bytes() for each in root.rglob("*") if each.is_file())
    assert PASSWORD.encode() not in written
    assert b"wrong-password" not in written
    # Kept on this host, but not for a run that has nobody's word any more.
    await save("team", "example.org")
    await refused("no basic auth credentials")


async def test_the_log_in_is_the_first_block_by_name_for_the_registry(
    client: PrefectClient,
) -> None:
    assert await login_to("docker.io") is None
    await save("b", "https://index.docker.io/v1/", "second")
    await save("a", "registry-1.docker.io", "first-one")
    await save("c", "example.org:5000", "third")
    assert await login_to("docker.io") == Login("docker.io", USER, "first-one")
    assert await login_to("example.org:5000") == Login("example.org:5000", USER, "third")
    assert await login_to("example.org") is None
    assert await login_to("docker.io", ["b", "c*"]) == Login("docker.io", USER, "second")
    assert await login_to("docker.io", ["c*"]) is None


async def test_a_block_that_is_not_valid_is_told_without_its_values(
    client: PrefectClient,
) -> None:
    await save("a", "example.org", "secret-thing")
    (saved,) = await client.read_block_documents_by_type("docker-registry-credentials")
    data = {"data": {"username": {"secret-thing": 1}}, "merge_existing_data": True}
    answer = await client._client.patch(f"/block_documents/{saved.id}", json=data)
    answer.raise_for_status()
    with pytest.raises(CredentialsUnreadable, match=r"block a for example\.org is not") as refusal:
        await login_to("example.org")
    assert "secret-thing" not in str(refusal.value)
    assert await login_to("docker.io") is None


async def test_an_api_that_does_not_answer_lets_nobody_read_an_image(
    client: PrefectClient,
) -> None:
    nobody = {PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with (
        temporary_settings(nobody),
        pytest.raises(CredentialsUnreadable, match=r"cannot be read .*: check that Prefect's API"),
    ):
        await login_to("docker.io")
