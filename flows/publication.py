"""What is told of an attempt when it is over: `run.json`, its files, the artifacts of the UI."""

import asyncio
import json
import time
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
from flows.naming import METADATA_KEY, REPORT_KEY
from flows.stages import Attempt
from flows.storage import create_link, deliver, intended


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
    entries = await asyncio.to_thread(workspace.listing)
    facts = run_json.build(prepared, executed, entries, round(time.monotonic() - started, 3))
    path = workspace.write_run_json(spec.artifacts_subdir, facts.as_json())
    with Journal(workspace.execute_log, workspace.folder, logger) as journal:
        journal.say(f"Published {path} and {len(facts.artifacts)} files")
    left = upload_seconds - (time.monotonic() - began)
    attempt = replace(attempt, upload=await deliver(delivery, attempt, logger, max(0.0, left)))
    history = [each.outcome for each in ledger.attempts() if each.executed]
    async with get_client() as client:
        for artifact in (
            ArtifactCreate(
                key=REPORT_KEY,
                type="markdown",
                description=f"How {spec.name} went",
                data=report.markdown(facts, executed.log, history, attempt.upload),
                flow_run_id=UUID(spec.job_id),
            ),
            ArtifactCreate(
                key=METADATA_KEY,
                type="table",
                description=str(path),
                data=json.dumps(run_json.metadata_table(facts)),
                flow_run_id=UUID(spec.job_id),
            ),
        ):
            await client.create_artifact(artifact)
        if attempt.upload is not None and attempt.upload.error is None:
            await create_link(client, spec.job_id, attempt.upload)
    return ledger.close(attempt)
