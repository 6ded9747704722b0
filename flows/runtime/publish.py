"""Publish an attempt: `run.json`, the upload of its files, and the artifacts of Prefect's UI."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.exceptions import PrefectHTTPStatusError

from flows.attempt import Attempt, Executed, Prepared
from flows.outcome import Outcome
from flows.outputs.upload import begin_delivery, deliver
from flows.report import page
from flows.report.artifacts import files_artifact, run_artifacts
from flows.report.chart import usage_svg
from flows.report.names import METADATA_KEY, REPORT_KEY
from flows.report.progress import PUBLISHING, UPLOADING, RunProgress, end_progress
from flows.report.run_json import RunReport, run_report
from flows.runtime.attempts import with_files_back
from flows.runtime.context import Job
from flows.spec import UPLOAD_SECONDS, ContainerSpec
from flows.workspace.folder import Workspace
from flows.workspace.logs import Journal, Logger

# A server's answers to what it does not take as it stands.
_REFUSED = {400, 409, 413, 422}


async def publish_attempt(
    job: Job, attempt: Attempt, *, upload_seconds: float = UPLOAD_SECONDS, again: bool = False
) -> Attempt:
    """Write `run.json`, upload the files, and make the artifacts that the Prefect UI shows.

    What is not uploaded `upload_seconds` after the call is for the sweep. With `again`, the server
    may have some of the artifacts.
    """
    if attempt.executed is None:
        raise ValueError("only an executed attempt has results")
    began, spec, logger = time.monotonic(), attempt.prepared.spec, job.logger
    async with RunProgress.after(spec, attempt.executed, logger.warning) as progress:
        progress.goes_on(PUBLISHING)
        executed = await _with_files_back(job, attempt.prepared, attempt.executed)
        attempt = replace(attempt, executed=executed)
        started = time.monotonic()
        newest = max(
            (each.prepared.spec.attempt for each in job.store.attempts()), default=spec.attempt
        )
        delivery = await begin_delivery(attempt, newest, logger)
        written = await _write_report(attempt.prepared, executed, started, logger)
        progress.goes_on(UPLOADING)
        left = max(0.0, upload_seconds - (time.monotonic() - began))
        upload = await deliver(delivery, logger, left) if delivery else None
        attempt = replace(attempt, upload=upload)
    async with get_client() as client:
        await end_progress(client, spec.job_id, executed, logger, is_shown=progress.is_shown)
        history = [each.outcome for each in job.store.attempts() if each.executed]
        try:
            made = list(_artifacts(attempt, executed, written, history))
            known = await _known(client, spec.job_id) if again else set()
            for artifact in made:
                if _told_by(artifact) not in known:
                    await client.create_artifact(artifact)
        except PrefectHTTPStatusError as error:
            if error.response.status_code not in _REFUSED:
                raise
            # It would not take them the next time either.
            logger.warning("Prefect's server refuses to show the results: %s", error)
    return job.store.close(attempt)


async def _with_files_back(job: Job, prepared: Prepared, executed: Executed) -> Executed:
    """After the files are in this worker's hands: an earlier process may have died before."""
    outcome = executed.outcome
    if outcome.results is not None and not outcome.cleanup_error:
        return executed
    async with job.open_engine(None) as engine:
        return replace(executed, outcome=await with_files_back(engine, prepared, outcome))


async def _write_report(
    prepared: Prepared, executed: Executed, started: float, logger: Logger
) -> tuple[RunReport, str | None]:
    """Write the chart and `run.json` into the job's folder: the report, and the chart."""
    workspace, spec = prepared.workspace, prepared.spec
    # An earlier process may have died before it did.
    await asyncio.to_thread(workspace.move_into_place, spec.artifacts_subdir)
    await asyncio.to_thread(_disown, workspace, spec, executed.outcome)
    picture = await _picture(workspace, spec, executed.outcome, logger)
    entries = await asyncio.to_thread(workspace.listing)
    facts = run_report(prepared, executed, entries, round(time.monotonic() - started, 3))
    path = workspace.write_run_json(spec.artifacts_subdir, facts.as_json())
    with Journal(workspace, logger) as journal:
        journal.say(f"Published {path} and {len(facts.artifacts)} files")
        journal.move_to_artifacts()
    return facts, picture


def _artifacts(
    attempt: Attempt,
    executed: Executed,
    written: tuple[RunReport, str | None],
    history: Sequence[Outcome],
) -> Iterator[ArtifactCreate]:
    spec, upload = attempt.prepared.spec, attempt.upload
    facts, picture = written
    drawn = picture is not None
    text = page.markdown(facts, executed.log, history, upload, has_picture=drawn)
    yield from run_artifacts(facts, text, picture, executed.outcome.results)
    if (upload and not upload.error) or spec.outputs:
        yield files_artifact(attempt)


def _told_by(artifact: ArtifactCreate | Artifact) -> tuple[object, ...]:
    """What tells it from the run's others, and from those of its other attempts."""
    data = None if artifact.key in (REPORT_KEY, METADATA_KEY) else artifact.data
    return artifact.key, artifact.description, data


async def _known(client: PrefectClient, job_id: str) -> set[tuple[object, ...]]:
    """What the server has of the run."""
    of_the_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(job_id)]))
    return {_told_by(each) for each in await client.read_artifacts(artifact_filter=of_the_run)}


def _disown(workspace: Workspace, spec: ContainerSpec, outcome: Outcome) -> None:
    """Rename what a task left where the runner's own files are told to be."""
    workspace.move_aside(spec.artifacts_subdir, "usage.svg")
    if outcome.results is None or not outcome.results.rows:
        workspace.move_aside(spec.artifacts_subdir, "outputs.json")


async def _picture(
    workspace: Workspace, spec: ContainerSpec, outcome: Outcome, logger: Logger
) -> str | None:
    try:
        svg = await asyncio.to_thread(usage_svg, outcome.points, spec.memory_bytes, spec.cpus)
        if svg is not None:
            await asyncio.to_thread(workspace.write_picture, spec.artifacts_subdir, svg)
    except Exception as error:  # noqa: BLE001 - no picture is worth the report
        logger.warning("There is no picture of what the run used: %s", error)
        return None
    return svg
