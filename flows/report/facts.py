"""Build `run.json` from what is known of one attempt. Pure.

By sections: the models that it nests, and of its own keys those on the image and on the end.
"""

from dataclasses import asdict
from datetime import datetime
from typing import TypedDict

from flows.attempt import Executed, Prepared
from flows.engine.types import Image
from flows.outcome import FailureClass, Outcome, OutcomeName, StoppedBy
from flows.report.docker_run import docker_run, secret_variables
from flows.report.run_json import (
    Artifact,
    FailedTest,
    Limits,
    Logs,
    OutputReport,
    RunReport,
    TestsReport,
    UnreadableTestReport,
    Used,
)
from flows.results import MAX_NAMED, OutputResult, ReportedTests
from flows.spec import ContainerSpec, command_summary
from flows.workspace.listing import Listing
from flows.workspace.logs import LogFacts


def run_report(
    prepared: Prepared, executed: Executed, found: Listing, publish_seconds: float = 0.0
) -> RunReport:
    """Put the facts of one attempt together; `found` is what is in its artifacts folder."""
    spec, outcome = prepared.shown, executed.outcome
    results = outcome.results
    return RunReport(
        schema_version=1,
        job_id=spec.job_id,
        attempt=spec.attempt,
        repository=prepared.repository,
        commit=prepared.commit,
        instructions=prepared.instructions,
        container_name=spec.name,
        image=spec.image,
        **_image(outcome.image or Image("")),
        command=list(spec.command),
        command_summary=command_summary(spec.command),
        pull_mode=spec.pull,
        workdir=spec.workdir,
        artifact_dir=spec.artifact_dir,
        artifacts_subdir=spec.artifacts_subdir,
        timeout_seconds=spec.timeout_seconds,
        **_end(outcome),
        started_at=executed.started_at,
        finished_at=executed.finished_at,
        duration_seconds=executed.duration_seconds,
        stage_seconds={
            "prepare": prepared.prepare_seconds,
            **outcome.stages,
            "publish": publish_seconds,
        },
        worker=spec.worker,
        logs=_logs(executed.log, outcome.log_reconnects),
        limits=_limits(spec),
        usage=Used(**asdict(outcome.usage)),
        outputs=list(map(_output, results.outputs)) if results else None,
        tests=_tests(results.tests) if results and results.tests else None,
        secrets=sorted(secret_variables(prepared)),
        docker_run=docker_run(prepared, outcome.image),
        artifacts=[Artifact(**asdict(entry)) for entry in found.entries],
        artifacts_left_out=found.left_out,
    )


class _ImageKeys(TypedDict):
    image_id: str | None
    image_digest: str | None
    image_platform: str | None
    image_cache_hit: bool | None
    image_pulled_bytes: int | None
    image_pull_seconds: float | None


def _image(image: Image) -> _ImageKeys:
    return {
        "image_id": image.id or None,
        "image_digest": image.digest or None,
        "image_platform": image.platform or None,
        "image_cache_hit": image.cache_hit,
        "image_pulled_bytes": image.pulled_bytes,
        "image_pull_seconds": image.pull_seconds,
    }


class _EndKeys(TypedDict):
    timed_out: bool
    exit_code: int | None
    oom_killed: bool
    outcome: OutcomeName
    failure_class: FailureClass | None
    error: str | None
    cleanup_error: str | None
    stopped_by: StoppedBy | None
    signal: int | None
    container_started_at: datetime | None
    container_finished_at: datetime | None


def _end(outcome: Outcome) -> _EndKeys:
    return {
        "timed_out": outcome.timed_out,
        "exit_code": outcome.exit_code,
        "oom_killed": outcome.oom_killed,
        "outcome": outcome.name,
        "failure_class": outcome.failure_class,
        "error": outcome.error,
        "cleanup_error": outcome.cleanup_error,
        "stopped_by": outcome.stopped_by,
        "signal": outcome.signal,
        "container_started_at": outcome.started_at,
        "container_finished_at": outcome.finished_at,
    }


def _logs(log: LogFacts, reconnects: int) -> Logs:
    return Logs(
        bytes=log.bytes,
        lines=log.lines,
        complete=log.error is None,
        dropped_from_ui=log.dropped_from_ui,
        reconnects=reconnects,
    )


def _limits(spec: ContainerSpec) -> Limits:
    return Limits(
        cpus=spec.cpus,
        memory_bytes=spec.memory_bytes,
        pids=spec.pids_limit,
        shm_bytes=spec.shm_bytes,
        gpus=spec.gpus,
    )


def _output(output: OutputResult) -> OutputReport:
    return OutputReport(
        path=output.path,
        required=output.required,
        type=output.type,
        missing=output.missing,
        collected=output.collected,
        collected_bytes=output.size_bytes,
        rejected=output.rejected,
    )


def _tests(tests: ReportedTests) -> TestsReport:
    return TestsReport(
        total=tests.total,
        passed=tests.passed,
        failed=tests.failed,
        errors=tests.errors,
        skipped=tests.skipped,
        flaky=tests.flaky,
        files=tests.files,
        unreadable=tests.unreadable_files,
        unreadable_reports=[UnreadableTestReport(**asdict(each)) for each in tests.unreadable],
        failures=[
            FailedTest(name=case.short_name, message=case.message)
            for case in tests.failures[:MAX_NAMED]
        ],
    )
