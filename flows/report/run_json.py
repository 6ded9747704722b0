"""`run.json`: its models, whose JSON schema is docs/run.schema.json, and how one is built. Pure."""

from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Literal

from pydantic import Field

from flows.attempt import Executed, Prepared
from flows.engine.types import Image
from flows.outcome import FailureClass, Outcome, OutcomeName, StoppedBy
from flows.outputs.manifest import PublishedModel
from flows.report.docker_run import docker_run, secret_variables
from flows.results import MAX_NAMED, OutputResult, ReportedTests
from flows.spec import ContainerSpec, command_summary
from flows.workspace.listing import Listing
from flows.workspace.logs import LogFacts


class Artifact(PublishedModel):
    """One thing below `artifacts/`; paths are relative to it."""

    path: str
    kind: Literal["file", "symlink", "other"]
    size_bytes: int = Field(ge=0)
    sha256: str | None = Field(
        description="null for what is no readable regular file, or beyond the bytes that are hashed"
    )


class Logs(PublishedModel):
    """What became of the container's output."""

    bytes: int = Field(ge=0, description="stdout and stderr together")
    complete: bool = Field(description="whether runner.log holds all of them")
    dropped_from_ui: int = Field(ge=0, description="bytes not sent to the flow run's log")
    lines: int = Field(ge=0, description="line ends in the output")
    reconnects: int = Field(ge=0, description="breaks of the connection that output followed")


class Used(PublishedModel):
    """What the container used, sampled about once a second: lower bounds, null where unseen."""

    peak_memory_bytes: int | None
    cpu_seconds: float | None
    block_read_bytes: int | None
    block_write_bytes: int | None
    network_received_bytes: int | None
    network_sent_bytes: int | None
    samples: int
    peak_pids: int | None = Field(description="processes and threads at once")


class OutputReport(PublishedModel):
    """What became of one of task.container.outputs; metadata/outputs.json lists its files."""

    path: str = Field(description="the pattern")
    required: bool
    type: Literal["file", "junit"]
    missing: bool = Field(description="whether nothing was collected")
    collected: int = Field(ge=0, description="files")
    collected_bytes: int = Field(ge=0)
    rejected: int = Field(ge=0, description="things that the pattern matches and that are not kept")


class UnreadableTestReport(PublishedModel):
    """A test report that does not count."""

    path: str = Field(description="below artifacts/")
    reason: str


class FailedTest(PublishedModel):
    """A test that failed or broke off."""

    name: str
    message: str = Field(description="the first of what it says, on one line")


class TestsReport(PublishedModel):
    """What the test reports say together."""

    # By its name, pytest would take it for tests.
    __test__ = False

    total: int = Field(ge=0)
    passed: int = Field(ge=0, description="also when run again")
    failed: int = Field(ge=0)
    errors: int = Field(ge=0, description="tests that broke off rather than failed")
    skipped: int = Field(ge=0)
    flaky: int = Field(ge=0, description="of those that passed, the ones that did not at first")
    files: int = Field(ge=0, description="reports that were read")
    unreadable: int = Field(ge=0, description="reports that were not, and do not count")
    unreadable_reports: list[UnreadableTestReport] = Field(description="the first of these")
    failures: list[FailedTest] = Field(description="the first tests that failed")


class Limits(PublishedModel):
    """What the container could use at most; null where nothing but the host limits it."""

    cpus: float | None
    memory_bytes: int | None
    pids: int
    shm_bytes: int | None = Field(description="null: Docker's default")
    gpus: int | Literal["all"] | None = Field(description="null: none")


class RunReport(PublishedModel):
    """`run.json`. Times are RFC 3339 in UTC."""

    schema_version: Literal[1]
    job_id: str
    attempt: int = Field(ge=1)
    repository: str | None
    commit: str | None
    instructions: str | None
    container_name: str
    image: str
    image_id: str | None
    image_digest: str | None
    image_platform: str | None = Field(description="what it is made for, such as linux/arm64/v8")
    image_cache_hit: bool | None = Field(
        description="whether the image was there already; null: unknown, or no image"
    )
    image_pulled_bytes: int | None = Field(description="what its pull downloaded, packed", ge=0)
    image_pull_seconds: float | None = Field(description="with retries, without waiting", ge=0)
    command: list[str]
    command_summary: str
    pull_mode: Literal["if-missing", "always", "never"]
    workdir: str
    artifact_dir: str
    artifacts_subdir: str
    timeout_seconds: int
    timed_out: bool
    exit_code: int | None
    oom_killed: bool
    outcome: OutcomeName
    failure_class: FailureClass | None
    error: str | None
    cleanup_error: str | None
    started_at: datetime = Field(description="when the execute stage started")
    finished_at: datetime = Field(description="when the execute stage finished")
    duration_seconds: float = Field(ge=0)
    stopped_by: StoppedBy | None = Field(description="who ended the container; null: it never ran")
    signal: int | None = Field(description="the signal that ended the process, from its exit code")
    stage_seconds: dict[str, float] = Field(
        description="prepare, pull, create, run, collect, and publish until run.json was written"
    )
    container_started_at: datetime | None
    container_finished_at: datetime | None
    worker: str
    logs: Logs
    limits: Limits
    usage: Used
    outputs: list[OutputReport] | None = Field(
        description="in the payload's order; null: its container never ran, or ended unseen"
    )
    tests: TestsReport | None = Field(
        description="null: no report, and no sign that there was to be one"
    )
    secrets: list[str] = Field(description="the environment variables that held secrets")
    docker_run: str = Field(description="a shell's command that does the same on another host")
    artifacts: list[Artifact]
    artifacts_left_out: int = Field(ge=0, description="found beyond the number that is listed")

    def as_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def run_report(
    prepared: Prepared, executed: Executed, found: Listing, publish_seconds: float = 0.0
) -> RunReport:
    """Put the facts of one attempt together; `found` is what is in its artifacts folder."""
    spec, outcome = prepared.shown, executed.outcome
    results = outcome.results
    return _with_outcome(outcome)(
        schema_version=1,
        job_id=spec.job_id,
        attempt=spec.attempt,
        repository=prepared.repository,
        commit=prepared.commit,
        instructions=prepared.instructions,
        container_name=spec.name,
        image=spec.image,
        command=list(spec.command),
        command_summary=command_summary(spec.command),
        pull_mode=spec.pull,
        workdir=spec.workdir,
        artifact_dir=spec.artifact_dir,
        artifacts_subdir=spec.artifacts_subdir,
        timeout_seconds=spec.timeout_seconds,
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


def _with_outcome(outcome: Outcome) -> "partial[RunReport]":
    """A report that has the keys on the image and on the end, and lacks all others."""
    image = outcome.image or Image("")
    return partial(
        RunReport,
        image_id=image.id or None,
        image_digest=image.digest or None,
        image_platform=image.platform or None,
        image_cache_hit=image.cache_hit,
        image_pulled_bytes=image.pulled_bytes,
        image_pull_seconds=image.pull_seconds,
        timed_out=outcome.timed_out,
        exit_code=outcome.exit_code,
        oom_killed=outcome.oom_killed,
        outcome=outcome.name,
        failure_class=outcome.failure_class,
        error=outcome.error,
        cleanup_error=outcome.cleanup_error,
        stopped_by=outcome.stopped_by,
        signal=outcome.signal,
        container_started_at=outcome.started_at,
        container_finished_at=outcome.finished_at,
    )


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
