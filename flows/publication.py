"""What is told of an attempt when it is over: `run.json`, its files, the artifacts of the UI."""

import asyncio
import time
from dataclasses import replace
from uuid import UUID

from prefect import get_client

from flows import report, run_json
from flows.attempts import with_files_back
from flows.engines import open_engine
from flows.ledger import Ledger
from flows.limits import UPLOAD_SECONDS
from flows.logs import Journal, Logger
from flows.outcomes import Outcome
from flows.picture import usage_svg
from flows.run_artifacts import run_artifacts
from flows.run_progress import end_progress
from flows.spec import ContainerSpec
from flows.stages import Attempt
from flows.storage import create_link, deliver, intended
from flows.workspace import Workspace


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
    outcome = executed.outcome
    if outcome.results is None or outcome.cleanup_error:
        async with open_engine() as engine:
            # An earlier process may have died before it came to that.
            outcome = await with_files_back(engine, prepared, outcome)
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
        for artifact in run_artifacts(facts, str(path), text, picture, outcome.results):
            owned = artifact.model_copy(update={"flow_run_id": UUID(spec.job_id)})
            await client.create_artifact(owned)
        if (attempt.upload and not attempt.upload.error) or spec.outputs:
            await create_link(client, attempt)
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
