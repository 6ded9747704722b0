"""What is told of an attempt when it is over: `run.json`, its files, the artifacts of the UI."""

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.actions import ArtifactCreate

from flows import report, run_json
from flows.attempts import with_files_back
from flows.engine import DockerEngine
from flows.ledger import Ledger
from flows.limits import UPLOAD_SECONDS
from flows.logs import Journal, Logger
from flows.markdown import escape
from flows.outcomes import Outcome
from flows.picture import usage_svg
from flows.run_json import RunReport
from flows.run_progress import end_progress
from flows.spec import ContainerSpec
from flows.stages import Attempt
from flows.storage import create_link, deliver, intended
from flows.workspace import Workspace

REPORT_KEY = "container-run"
METADATA_KEY = "container-run-metadata"
USAGE_KEY = "container-run-usage"


async def publish_attempt(
    ledger: Ledger, attempt: Attempt, logger: Logger, *, upload_seconds: float = UPLOAD_SECONDS
) -> Attempt:
    """Write `run.json`, upload the files, and make the artifacts that the Prefect UI shows.

    Noted in the ledger. What of the files is not uploaded after `upload_seconds`, counted from
    the call, is for the sweep.
    """
    prepared, executed = attempt.prepared, attempt.executed
    if executed is None:
        raise ValueError("only an executed attempt has results")
    began = time.monotonic()
    async with DockerEngine() as engine:
        # An earlier process may have died before it came to that.
        outcome = await with_files_back(engine, prepared, executed.outcome)
    executed = replace(executed, outcome=outcome)
    attempt = replace(attempt, executed=executed)
    workspace, spec = prepared.workspace, prepared.spec
    started = time.monotonic()
    delivery = await intended(attempt, logger)
    picture = await _picture(workspace, spec, outcome, logger)
    entries = await asyncio.to_thread(workspace.listing)
    facts = run_json.build(prepared, executed, entries, round(time.monotonic() - started, 3))
    path = workspace.write_run_json(spec.artifacts_subdir, facts.as_json())
    with Journal(workspace.execute_log, workspace.folder, logger) as journal:
        journal.say(f"Published {path} and {len(facts.artifacts)} files")
    async with get_client() as client:
        # Before the upload, which may take long.
        await end_progress(client, spec.job_id, executed, logger)
        left = upload_seconds - (time.monotonic() - began)
        attempt = replace(attempt, upload=await deliver(delivery, attempt, logger, max(0.0, left)))
        history = [each.outcome for each in ledger.attempts() if each.executed]
        text = report.markdown(facts, executed.log, history, attempt.upload)
        for artifact in _artifacts(facts, str(path), text, picture):
            owned = artifact.model_copy(update={"flow_run_id": UUID(spec.job_id)})
            await client.create_artifact(owned)
        if attempt.upload is not None and attempt.upload.error is None:
            await create_link(client, spec.job_id, attempt.upload)
    return ledger.close(attempt)


async def _picture(
    workspace: Workspace, spec: ContainerSpec, outcome: Outcome, logger: Logger
) -> str | None:
    """Draw what the run used, into its folder as well; None where there is nothing to draw."""
    try:
        svg = await asyncio.to_thread(usage_svg, outcome.points, spec.memory_bytes, spec.cpus)
        if svg is not None:
            await asyncio.to_thread(workspace.write_picture, spec.artifacts_subdir, svg)
    except Exception as error:  # noqa: BLE001 - no picture is worth the report
        logger.warning("There is no picture of what the run used: %s", error)
        return None
    return svg


def _artifacts(
    facts: RunReport, path: str, text: str, picture: str | None
) -> Iterator[ArtifactCreate]:
    """What the page of the run shows; the picture within its own address, for whoever sees that."""
    about = escape(f"{facts.outcome}: {facts.error or f'exited {facts.exit_code}'}")
    yield ArtifactCreate(key=REPORT_KEY, type="markdown", description=about, data=text)
    if picture is not None:
        address = f"data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()}"
        about = "Memory and CPU of the container over time, against their limits"
        yield ArtifactCreate(key=USAGE_KEY, type="image", description=about, data=address)
    table = json.dumps(run_json.metadata_table(facts))
    yield ArtifactCreate(key=METADATA_KEY, type="table", description=path, data=table)
