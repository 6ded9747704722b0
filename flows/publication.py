"""What is told of an attempt when it is over: `run.json`, its files, the artifacts of the UI."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.actions import ArtifactCreate

from flows import report, run_json
from flows.attempts import with_files_back
from flows.engines import open_engine
from flows.ledger import Ledger
from flows.limits import UPLOAD_SECONDS
from flows.logs import Journal, Logger
from flows.results import Results
from flows.results_tables import table_of_outputs, table_of_tests
from flows.stages import Attempt
from flows.storage import create_link, deliver, intended

REPORT_KEY = "container-run"
METADATA_KEY = "container-run-metadata"
TESTS_KEY = "container-run-tests"
OUTPUTS_KEY = "container-run-outputs"


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
    if executed.outcome.results is None or executed.outcome.cleanup_error:
        async with open_engine() as engine:
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
    shown = [
        ("markdown", REPORT_KEY, report.markdown(facts, executed.log, history, attempt.upload),
         f"How {spec.name} went"),
        ("table", METADATA_KEY, json.dumps(run_json.metadata_table(facts)), str(path)),
        *_tables(executed.outcome.results),
    ]  # fmt: skip
    async with get_client() as client:
        for kind, key, data, description in shown:
            await client.create_artifact(
                ArtifactCreate(
                    key=key,
                    type=kind,
                    description=description,
                    data=data,
                    flow_run_id=UUID(spec.job_id),
                )
            )
        if (attempt.upload and not attempt.upload.error) or spec.outputs:
            await create_link(client, attempt)
    return ledger.close(attempt)


def _tables(results: Results | None) -> Iterator[tuple[str, str, str, str]]:
    """Type, key, data and description of the artifacts that show what the container left."""
    if results is not None and results.tests is not None:
        rows = json.dumps(table_of_tests(results.tests))
        yield "table", TESTS_KEY, rows, "What the test reports say, failures first"
    if results is not None and results.outputs:
        rows = json.dumps(table_of_outputs(results))
        yield "table", OUTPUTS_KEY, rows, "What the task was to leave, and what of it there is"
