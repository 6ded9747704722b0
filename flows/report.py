"""The report of a run in Markdown, as the artifact `container-run` shows it. Pure rendering."""

from collections.abc import Sequence

from flows.errors import Fault
from flows.logs import LogFacts
from flows.markdown import code, escape, fence, table
from flows.messages import not_uploaded
from flows.outcomes import Outcome, StoppedBy, signal_name
from flows.run_json import Artifact, RunReport, Used
from flows.sizes import size
from flows.stages import Upload

_LISTED_IN_REPORT = 50
_ENDED_BY = {
    StoppedBy.CONTAINER: "itself",
    StoppedBy.DEADLINE: "its time limit",
    StoppedBy.CANCEL: "a cancellation",
    StoppedBy.ENGINE: "the engine, which stopped",
    StoppedBy.OUTSIDE: "somebody outside",
}


def markdown(
    report: RunReport,
    log: LogFacts,
    attempts: Sequence[Outcome] = (),
    upload: Upload | None = None,
) -> str:
    """The report of a run that reached the execute stage; `attempts` are all, oldest first."""
    facts = [
        ("Image", code(report.image)),
        ("Digest", code(report.image_digest or report.image_id or "none")),
        ("Pull", _pull(report)),
        ("Command", code(report.command_summary)),
        ("Working directory", code(report.workdir)),
        ("Repository", code(report.repository) if report.repository else "none"),
        ("Commit", code(report.commit) if report.commit else "none"),
        ("Exit code", _exit(report)),
        ("Ended by", _ENDED_BY[report.stopped_by] if report.stopped_by else "it never ran"),
        ("Duration", f"{report.duration_seconds:.1f} s of at most {report.timeout_seconds} s"),
        ("Stages", ", ".join(f"{name} {s:.1f} s" for name, s in report.stage_seconds.items())),
        ("Used", _used(report.usage)),
        ("Worker", code(report.worker)),
        ("Container", code(report.container_name)),
        *([("Uploaded to", code(upload.address))] if upload and not upload.error else []),
    ]
    unsent = not_uploaded(upload) if upload and upload.error else None
    beside = (report.error, report.cleanup_error, log.error, unsent)
    parts = [
        f"# {report.outcome}",
        *(escape(text) for text in beside if text),
        *([f"> {escape(report.instructions)}"] if report.instructions else []),
        table(("", ""), facts),
        *(["## Attempts", _attempts(attempts)] if len(attempts) > 1 else []),
        "## Last lines",
        fence(log.tail.rstrip("\n") or "(no output)"),
        f"## Files ({len(report.artifacts) + report.artifacts_left_out})",
        _files(report.artifacts, report.artifacts_left_out),
    ]
    return "\n\n".join(parts) + "\n"


def rejection_markdown(outcome: Outcome, faults: Sequence[Fault] = ()) -> str:
    """The report of a run that ended before the execute stage, a line a fault."""
    sentences = [str(fault) for fault in faults] or [outcome.error or ""]
    return f"# {outcome.name}\n\n" + "\n".join(f"- {escape(line)}" for line in sentences) + "\n"


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
        (str(number), str(each.name), escape(each.error or "exited 0"))
        for number, each in enumerate(attempts, start=1)
    ]
    return table(("Attempt", "Outcome", ""), rows)


def _files(artifacts: Sequence[Artifact], left_out: int) -> str:
    if not artifacts:
        return "None."
    shown = artifacts[:_LISTED_IN_REPORT]
    rows = [
        (code(item.path), str(item.size_bytes), code(item.sha256[:12]) if item.sha256 else "")
        for item in shown
    ]
    more = len(artifacts) - len(shown)
    notes = [
        *([f"and {more} more: all are in `run.json`"] if more else []),
        *([f"and {left_out} more that are listed nowhere"] if left_out else []),
    ]
    return "\n\n".join([table(("Path", "Bytes", "sha256"), rows), *notes])
