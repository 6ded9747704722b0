"""How it went, for people and programs: `run.json`, the Markdown report, the state's message.

Pure rendering; nothing here writes or talks to anybody.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from flows.errors import Fault
from flows.files import Listing
from flows.logs import LogFacts
from flows.outcomes import FailureClass, Outcome, OutcomeName, StoppedBy, signal_name
from flows.sizes import size
from flows.spec import command_summary
from flows.stages import Executed, Prepared, Upload

SCHEMA_VERSION: Literal[1] = 1
_LISTED_IN_REPORT = 50
# ECMA-48: control strings such as window titles, then control sequences such as colours, then
# the escapes of two characters.
_ESCAPES = re.compile(
    r"(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c|$)"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b[ -/]*[0-~]",
    re.MULTILINE,
)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_ENDED_BY = {
    StoppedBy.CONTAINER: "itself",
    StoppedBy.DEADLINE: "its time limit",
    StoppedBy.CANCEL: "a cancellation",
    StoppedBy.ENGINE: "the engine, which stopped",
    StoppedBy.OUTSIDE: "somebody outside",
}
_STATE_NAMES = {
    OutcomeName.TIMED_OUT: "TimedOut",
    OutcomeName.OUT_OF_MEMORY: "OutOfMemory",
    OutcomeName.REJECTED: "Rejected",
    OutcomeName.IMAGE_ERROR: "ImageError",
    OutcomeName.INFRASTRUCTURE: "InfrastructureError",
}


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )


class Artifact(_Model):
    """One thing below `artifacts/`; paths are relative to it."""

    path: str
    kind: Literal["file", "symlink", "other"]
    size_bytes: int = Field(ge=0)
    sha256: str | None = Field(
        description="null for what is no readable regular file, or beyond the bytes that are hashed"
    )


class Logs(_Model):
    """What became of the container's output."""

    bytes: int = Field(ge=0, description="stdout and stderr together")
    complete: bool = Field(description="whether runner.log holds all of them")
    dropped_from_ui: int = Field(ge=0, description="bytes not sent to the flow run's log")
    lines: int = Field(ge=0, description="line ends in the output")
    reconnects: int = Field(ge=0, description="breaks of the connection that output followed")


class Used(_Model):
    """What the container used, sampled about once a second: lower bounds, null where unseen."""

    peak_memory_bytes: int | None
    cpu_seconds: float | None
    block_read_bytes: int | None
    block_write_bytes: int | None
    network_received_bytes: int | None
    network_sent_bytes: int | None
    samples: int


class RunReport(_Model):
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
        description="prepare, pull, create, run, and publish until run.json was written"
    )
    container_started_at: datetime | None
    container_finished_at: datetime | None
    worker: str
    logs: Logs
    usage: Used
    artifacts: list[Artifact]
    artifacts_left_out: int = Field(ge=0, description="found beyond the number that is listed")

    def as_json(self) -> str:
        """The text of the file."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def build(
    prepared: Prepared, executed: Executed, found: Listing, publish_seconds: float = 0.0
) -> RunReport:
    """Put the facts of one attempt together."""
    spec, outcome, log = prepared.spec, executed.outcome, executed.log
    stages = {"prepare": prepared.prepare_seconds, **outcome.stages, "publish": publish_seconds}
    return RunReport(
        schema_version=SCHEMA_VERSION,
        job_id=spec.job_id,
        attempt=spec.attempt,
        repository=prepared.repository,
        commit=prepared.commit,
        instructions=prepared.instructions,
        container_name=spec.name,
        image=spec.image,
        image_id=outcome.image.id if outcome.image else None,
        image_digest=(outcome.image.digest or None) if outcome.image else None,
        image_platform=(outcome.image.platform or None) if outcome.image else None,
        image_cache_hit=outcome.image.cache_hit if outcome.image else None,
        image_pulled_bytes=outcome.image.pulled_bytes if outcome.image else None,
        image_pull_seconds=outcome.image.pull_seconds if outcome.image else None,
        command=list(spec.command),
        command_summary=command_summary(spec.command),
        pull_mode=spec.pull,
        workdir=spec.workdir,
        artifact_dir=spec.artifact_dir,
        artifacts_subdir=spec.artifacts_subdir,
        timeout_seconds=spec.timeout_seconds,
        timed_out=outcome.timed_out,
        exit_code=outcome.exit_code,
        oom_killed=outcome.oom_killed,
        outcome=outcome.name,
        failure_class=outcome.failure_class,
        error=outcome.error,
        cleanup_error=outcome.cleanup_error,
        started_at=executed.started_at,
        finished_at=executed.finished_at,
        duration_seconds=executed.duration_seconds,
        stopped_by=outcome.stopped_by,
        signal=outcome.signal,
        stage_seconds=stages,
        container_started_at=outcome.started_at,
        container_finished_at=outcome.finished_at,
        worker=spec.worker,
        logs=Logs(
            bytes=log.bytes,
            lines=log.lines,
            complete=log.error is None,
            dropped_from_ui=log.dropped_from_ui,
            reconnects=outcome.log_reconnects,
        ),
        usage=Used(**asdict(outcome.usage)),
        artifacts=[Artifact(**asdict(entry)) for entry in found.entries],
        artifacts_left_out=found.left_out,
    )


def state_name(outcome: Outcome) -> str | None:
    """The name of the flow run's final state, where it is not its type's own."""
    return _STATE_NAMES.get(outcome.name)


def stage_name(outcome: Outcome) -> str:
    """The name of the state of the stage that ended the run's work."""
    exited = "Failed" if outcome.exit_code is None else f"Exited {outcome.exit_code}"
    return state_name(outcome) or exited


def state_message(
    outcome: Outcome, log: LogFacts | None = None, upload: Upload | None = None
) -> str:
    """What a person reads first: how it ended, and what to do next."""
    succeeded = outcome.name is OutcomeName.SUCCEEDED
    message = "exited 0" if succeeded else outcome.error or str(outcome.name)
    if upload and upload.error:
        message = f"{message}. {_not_uploaded(upload)}"
    last = _last_line(log.tail) if log and not succeeded else ""
    return f"{message}. Its last line: {last}" if last else message


def markdown(
    report: RunReport,
    log: LogFacts,
    attempts: Sequence[Outcome] = (),
    upload: Upload | None = None,
) -> str:
    """The report of a run that reached the execute stage; `attempts` are all, oldest first."""
    facts = [
        ("Image", _code(report.image)),
        ("Digest", _code(report.image_digest or report.image_id or "none")),
        ("Pull", _pull(report)),
        ("Command", _code(report.command_summary)),
        ("Working directory", _code(report.workdir)),
        ("Repository", _code(report.repository) if report.repository else "none"),
        ("Commit", _code(report.commit) if report.commit else "none"),
        ("Exit code", _exit(report)),
        ("Ended by", _ENDED_BY[report.stopped_by] if report.stopped_by else "it never ran"),
        ("Duration", f"{report.duration_seconds:.1f} s of at most {report.timeout_seconds} s"),
        ("Stages", ", ".join(f"{name} {s:.1f} s" for name, s in report.stage_seconds.items())),
        ("Used", _used(report.usage)),
        ("Worker", _code(report.worker)),
        ("Container", _code(report.container_name)),
        *([("Uploaded to", _code(upload.address))] if upload and not upload.error else []),
    ]
    not_uploaded = _not_uploaded(upload) if upload and upload.error else None
    beside = (report.error, report.cleanup_error, log.error, not_uploaded)
    parts = [
        f"# {report.outcome}",
        *(_escape(text) for text in beside if text),
        *([f"> {_escape(report.instructions)}"] if report.instructions else []),
        _table(("", ""), facts),
        *(["## Attempts", _attempts(attempts)] if len(attempts) > 1 else []),
        "## Last lines",
        _fence(log.tail.rstrip("\n") or "(no output)"),
        f"## Files ({len(report.artifacts) + report.artifacts_left_out})",
        _files(report.artifacts, report.artifacts_left_out),
    ]
    return "\n\n".join(parts) + "\n"


def rejection_markdown(outcome: Outcome, faults: Sequence[Fault] = ()) -> str:
    """The report of a run that ended before the execute stage, a line a fault."""
    sentences = [str(fault) for fault in faults] or [outcome.error or ""]
    return f"# {outcome.name}\n\n" + "\n".join(f"- {_escape(line)}" for line in sentences) + "\n"


def metadata_table(report: RunReport) -> list[dict[str, str]]:
    """`run.json` without its lists, a row a key."""
    plain = report.model_dump(mode="json", by_alias=True, exclude={"artifacts", "logs", "command"})
    return [
        {"key": key, "value": "" if value is None else str(value)} for key, value in plain.items()
    ]


def _not_uploaded(upload: Upload) -> str:
    return f"Its files are on its host and not uploaded: {upload.error}; the sweep tries again"


def _exit(report: RunReport) -> str:
    if report.exit_code is None:
        return "none"
    signal = f", {signal_name(report.signal)}" if report.signal else ""
    return f"{report.exit_code}{signal}"


def _pull(report: RunReport) -> str:
    if report.image_cache_hit is None:
        return "unknown"
    platform = report.image_platform or "unknown platform"
    if report.image_cache_hit:
        return f"{platform}, present already"
    amount = size(report.image_pulled_bytes or 0)
    return f"{platform}, {amount} in {report.image_pull_seconds or 0:.1f} s"


def _used(usage: Used) -> str:
    """The receipt on a line; nothing of what no sample told."""
    amounts = (
        ("at most {} of memory", usage.peak_memory_bytes),
        ("{} read", usage.block_read_bytes),
        ("{} written", usage.block_write_bytes),
        ("{} received", usage.network_received_bytes),
        ("{} sent", usage.network_sent_bytes),
    )
    seen = [text.format(size(number)) for text, number in amounts if number is not None]
    if usage.cpu_seconds is not None:
        seen.insert(0, f"{usage.cpu_seconds:.1f} CPU-s")
    return ", ".join(seen) or "unknown: it ended before the first sample"


def _attempts(attempts: Sequence[Outcome]) -> str:
    rows = [
        (str(number), str(each.name), _escape(each.error or "exited 0"))
        for number, each in enumerate(attempts, start=1)
    ]
    return _table(("Attempt", "Outcome", ""), rows)


def _files(artifacts: Sequence[Artifact], left_out: int) -> str:
    if not artifacts:
        return "None."
    shown = artifacts[:_LISTED_IN_REPORT]
    rows = [
        (_code(item.path), str(item.size_bytes), _code(item.sha256[:12]) if item.sha256 else "")
        for item in shown
    ]
    more = len(artifacts) - len(shown)
    notes = [
        *([f"and {more} more: all are in `run.json`"] if more else []),
        *([f"and {left_out} more that are listed nowhere"] if left_out else []),
    ]
    return "\n\n".join([_table(("Path", "Bytes", "sha256"), rows), *notes])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _code(text: str) -> str:
    flat = " ".join(text.splitlines())
    # A code span cannot show a backtick plainly, nor a backslash before a table's bar.
    return _escape(text) if "`" in flat or "|" in flat else f"`{flat}`"


def _escape(text: str) -> str:
    flat = " ".join(text.split())
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#~&" else char for char in flat)


def _fence(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


def _last_line(text: str) -> str:
    """What a terminal would show of the last line that says anything."""
    lines = (_CONTROLS.sub(" ", line).strip() for line in _ESCAPES.sub("", text).splitlines())
    return next(filter(None, reversed(list(lines))), "")[:200]
