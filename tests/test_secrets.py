"""Secret blocks: where their values get to, and where they do not."""

import asyncio
import base64
import hashlib
import json
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from prefect import get_client
from prefect.blocks.system import Secret
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.container_task import container_task
from flows.errors import HostMisconfigured, PayloadError
from flows.runtime.credentials import container_secrets
from tests.runs import Finished, Runner, payload, shell, until

TOKEN = 'tök3n/with=odd+chars & "quotes"'
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END KEY-----"


async def saved(name: str, value: Any) -> str:
    await Secret(value=value).asave(name, overwrite=True)
    return name


async def told_to_prefect(run: Finished, but: Collection[str] = ()) -> str:
    """All that the API keeps of a run: its parameters, states, logs and artifacts."""
    run_id = UUID(run.job_id)
    async with get_client() as client:
        flow_run = await client.read_flow_run(run_id)
        logs = await client.read_logs(
            LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])), limit=200
        )
        artifacts = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        )
    texts = [record.message for record in logs] + [str(artifact.data) for artifact in artifacts]
    return "\n".join([flow_run.model_dump_json(exclude={*but}), *texts])


def stored(jobs: Path, run: Finished) -> Iterator[tuple[Path, bytes]]:
    """Every file that the worker keeps of a run."""
    for path in (*run.folder.rglob("*"), *jobs.glob(f".runs/{run.job_id}*")):
        if path.is_file() and not path.is_symlink():
            yield path, path.read_bytes()


@pytest.mark.docker
async def test_a_secret_reaches_the_container_and_nothing_else(
    runner: Runner, jobs_folder: Path
) -> None:
    secrets = {
        "TOKEN": await saved("task-token", TOKEN),
        "KEY": await saved("task-key", KEY),
    }
    script = """
        printf '%s' "$TOKEN" | sha256sum | cut -c 1-16
        echo "$TOKEN"; echo "$KEY"
        printf '%.5s' "$TOKEN"; sleep 0.3; printf '%s\\n' "${TOKEN#?????}"
        printf '%s' "$TOKEN" | base64
        exit 3
    """
    run = await runner(shell(script, secrets=secrets))
    assert run.output.splitlines()[0] == hashlib.sha256(TOKEN.encode()).hexdigest()[:16]
    assert "***" in run.output
    spellings = [TOKEN, json.dumps(TOKEN)[1:-1], quote(TOKEN, safe=""), *KEY.splitlines()]
    spellings.append(base64.b64encode(TOKEN.encode()).decode())
    prefect = await told_to_prefect(run)
    for spelling in spellings:
        assert spelling not in prefect
        assert spelling not in run.message
        for path, content in stored(jobs_folder, run):
            assert spelling.encode() not in content, path


@pytest.mark.docker
async def test_a_secret_that_stands_in_the_command_is_shown_nowhere(
    runner: Runner, jobs_folder: Path
) -> None:
    secret = "word-of-the-command"
    raw = payload(
        f"printf %s '{secret}' | sha256sum; exit 3",
        entrypoint=["env", f"PASSED={secret}", "sh", "-c"],
        env={"COPY": secret},
        secrets={"TOKEN": await saved("task-word", secret)},
        task={"instructions": f"Call it with {secret}"},
    )
    run = await runner(raw)
    assert run.output.split()[0] == hashlib.sha256(secret.encode()).hexdigest()
    assert "***" in run.run_json["commandSummary"]
    assert "'PASSED=***' sh -c" in run.run_json["dockerRun"]
    assert run.run_json["dockerRun"].startswith("# *** stands for a secret")
    assert run.run_json["instructions"] == "Call it with ***"
    async with get_client() as client:
        assert "***" in (await client.read_flow_run(UUID(run.job_id))).name
    told = [await told_to_prefect(run, but={"parameters"}), run.message]
    assert all(secret not in each for each in told)
    shown = [content for path, content in stored(jobs_folder, run) if ".runs" not in path.parts]
    assert len(shown) >= 3
    assert all(secret.encode() not in content for content in shown)


@pytest.mark.docker
async def test_an_edited_secret_is_in_force_on_the_next_run(runner: Runner) -> None:
    task = shell('test "$TOKEN" = second-value', secrets={"TOKEN": "task-edited"})
    await saved("task-edited", "first-value")
    assert (await runner(task)).run_json["exitCode"] == 1
    await saved("task-edited", "second-value")
    assert (await runner(task)).run_json["exitCode"] == 0


@pytest.mark.docker
async def test_a_secret_is_nowhere_in_what_the_engine_shows_of_labels(
    runner: Runner, jobs_folder: Path
) -> None:
    await saved("task-labels", "label-secret-value")
    wait = "until [ -e $ARTIFACT_DIR/go ]; do sleep 0.1; done"
    running = asyncio.ensure_future(
        container_task(
            shell(wait, secrets={"TOKEN": "task-labels"}, timeoutSeconds=60), return_state=True
        )
    )
    found: list[Path] = []

    def is_up() -> bool:
        command = ["docker", "ps", "--quiet", "--filter", "label=moonmind.job_id"]
        for name in subprocess.run(command, capture_output=True, text=True).stdout.split():
            shown = ["docker", "inspect", "--format", "{{json .Config}}", name]
            said = subprocess.run(shown, capture_output=True, text=True).stdout
            # Another test's container may be gone by now.
            if "TOKEN=label-secret-value" in said:
                config = json.loads(said)
                assert "label-secret-value" not in json.dumps(config["Labels"])
                assert "label-secret-value" not in json.dumps(config["Cmd"])
                found.append(jobs_folder / config["Labels"]["moonmind.job_id"])
        return bool(found)

    await asyncio.to_thread(until, is_up)
    (found[0] / "artifacts" / "container" / "go").touch()
    assert (await running).is_completed()


@pytest.mark.parametrize(
    ("secrets", "says"),
    [
        ({"TOKEN": "task-missing"}, "there is no Secret block named 'task-missing'"),
        ({"TOKEN": "prod-token"}, "prod-token is not allowed by the container policy"),
        ({"TOKEN": "task-number"}, "the value of the Secret block 'task-number' is no text"),
        ({"TOKEN": "task-nul"}, "has a NUL character"),
        ({"TOKEN": "task-large"}, "has more than 131071 bytes with its name"),
        (
            {f"A{i}": f"task-large-{i}" for i in range(3)},
            "131072 characters together, the longest in A0",
        ),
        ({"JOB_ID": "task-token"}, "is reserved"),
        ({"TOKEN": "Not A Block"}, "not the name of a block"),
    ],
)
@pytest.mark.docker
async def test_a_secret_that_cannot_be_had_is_refused_before_anything_is_made(
    runner: Runner, secrets: dict[str, str], says: str
) -> None:
    await saved("task-number", 5)
    await saved("task-nul", "a\0bcdef")
    await saved("task-large", "x" * (128 * 1024 - 6))
    for i in range(3):
        await saved(f"task-large-{i}", f"{i}-" * 50_000)
    run = await runner(shell("true", secrets=secrets))
    assert run.state.name == "Rejected"
    assert says in run.message
    assert next(iter(secrets)) in run.message
    assert not run.folder.exists()


@pytest.mark.docker
async def test_a_variable_that_is_in_env_and_in_secrets_is_refused(runner: Runner) -> None:
    run = await runner(shell("true", env={"A": "x"}, secrets={"A": "task-token"}))
    assert "has A in env and in secrets" in run.message


async def test_every_block_that_is_missing_is_told(prefect_api: None) -> None:
    with pytest.raises(PayloadError) as refusal:
        await container_secrets({"A": "task-none-1", "B": "task-none-2"})
    assert [fault.path for fault in refusal.value.faults] == [
        "task.container.secrets.A",
        "task.container.secrets.B",
    ]


async def test_an_api_that_does_not_answer_gives_no_secret(prefect_api: None) -> None:
    nobody = {PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(nobody), pytest.raises(HostMisconfigured, match="cannot be read"):
        await container_secrets({"A": "task-token"})
