"""The report of a run in Markdown, as the artifact `container-run` shows it. Pure rendering.

For the Prefect UI and for a terminal of 80 columns: what matters first, each section a function.
"""

from collections.abc import Iterable, Iterator, Sequence

from flows.attempt import Upload
from flows.errors import Fault
from flows.exit_code import signal_name
from flows.outcome import OUTCOMES, Outcome, StoppedBy
from flows.outputs.upload_plan import file_address
from flows.report.docker_run import image_name
from flows.report.names import not_uploaded
from flows.report.run_json import Artifact, FailedTest, OutputReport, RunReport, TestsReport
from flows.text import code, escape, fence, one_line, shown_lines, table
from flows.units import duration, processors, size
from flows.workspace.logs import LogFacts

# A payload may hold half a megabyte.
_LONGEST_COMMAND, _BAR = 8000, 20
PICTURE = "metadata/usage.svg"
# What Docker gives a container that asks for nothing else.
_SHM_BYTES = 64 * 1024**2
_UNMEASURED = "not measured"
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
    *,
    has_picture: bool = False,
) -> str:
    """The report of a run that was executed; `attempts` are all, oldest first."""
    sections: tuple[Iterable[str], ...] = (
        _ending(report, log, upload),
        _tests_section(report.tests),
        _outputs_section(report.outputs or ()),
        _stages(report),
        _resources(report, has_picture=has_picture),
        _attempts(attempts),
        _last_lines(report, log),
        _files(report, upload),
        _facts_table(report, upload),
        _by_hand(report),
    )
    return "\n\n".join(block for section in sections for block in section) + "\n"


def rejection_markdown(outcome: Outcome, faults: Sequence[Fault] = ()) -> str:
    """The report of a run that ended before the execute stage, a line a fault."""
    sentences = [str(fault) for fault in faults] or [outcome.error or ""]
    lines = "\n".join(f"- {escape(line)}" for line in sentences)
    return f"# {OUTCOMES[outcome.name].heading}\n\n{lines}\n"


def _ending(report: RunReport, log: LogFacts, upload: Upload | None) -> Iterable[str]:
    """How it ended and what to do next, what else went wrong, and what it was to do."""
    yield f"# {OUTCOMES[report.outcome].heading}"
    ended = f"exited {report.exit_code} after {duration(report.duration_seconds)}"
    unsent = not_uploaded(upload) if upload and upload.error else None
    beside = (report.cleanup_error, log.error, unsent)
    yield from (_as_sentence(text) for text in (report.error or ended, *beside) if text)
    if report.instructions:
        yield f"> {escape(one_line(report.instructions, _LONGEST_COMMAND))}"


def _as_sentence(text: str) -> str:
    """A stranger's words as a sentence; what begins with a name keeps its spelling."""
    first = text.partition(" ")[0]
    return escape(f"{text[0].upper()}{text[1:]}" if first.isalpha() else text) + "."


def _tests_section(tests: TestsReport | None) -> Iterable[str]:
    if tests is None or not tests.total + tests.unreadable:
        return
    counts = (
        ("passed", tests.passed),
        ("failed", tests.failed),
        ("broke off", tests.errors),
        ("skipped", tests.skipped),
    )
    yield f"## Tests ({tests.total:,})"
    yield ", ".join(f"{number:,} {what}" for what, number in counts if number) + "."
    if tests.failures:
        yield "\n".join(f"- {code(each.name)}{_message_of(each)}" for each in tests.failures)
    more = tests.failed + tests.errors - len(tests.failures)
    further = f"and {more:,} more; " if more else ""
    yield f"{further}`container-run-tests` has all of them."
    for unread in tests.unreadable_reports:
        yield f"The report {code(unread.path)} could not be read: {escape(unread.reason)}."


def _message_of(test: FailedTest) -> str:
    return f": {escape(one_line(test.message, 200))}" if test.message else ""


def _outputs_section(outputs: Sequence[OutputReport]) -> Iterable[str]:
    if not outputs:
        return
    yield "## Outputs"
    yield "\n".join(f"- {code(each.path)}: {_count_of(each)}" for each in outputs)
    yield "`container-run-outputs` has each file: its checksum, or why it is not kept."


def _count_of(output: OutputReport) -> str:
    files = "1 file" if output.collected == 1 else f"{output.collected:,} files"
    missing = "**missing, and required**" if output.required else "missing"
    found = missing if output.missing else f"{files}, {size(output.collected_bytes)}"
    return f"{found}, {output.rejected:,} rejected" if output.rejected else found


def _stages(report: RunReport) -> Iterable[str]:
    stages = report.stage_seconds
    total = sum(stages.values())
    rows = [
        (name, duration(seconds), _share(seconds, total), _bar(seconds, total))
        for name, seconds in stages.items()
    ]
    yield "## Stages"
    yield table(("Stage", "Time", "Share", ""), rows)


def _bar(part: float, whole: float) -> str:
    filled = round(_BAR * part / whole) if whole else 0
    return code("█" * filled + "░" * (_BAR - filled))


def _resources(report: RunReport, *, has_picture: bool) -> Iterable[str]:
    yield "## Resources"
    yield table(("Resource", "Used", "Limit", "Share"), tuple(_resource_rows(report)))
    if not report.usage.samples:
        yield "It ended before its use of resources was first measured."
    if has_picture:
        picture = f"{report.artifacts_subdir}/{PICTURE}"
        yield f"Memory and CPU over time: the artifact `container-run-usage`, or {code(picture)}."


def _resource_rows(report: RunReport) -> Iterator[tuple[str, ...]]:
    limits, usage = report.limits, report.usage
    yield _time_row(report)
    yield _memory(usage.peak_memory_bytes, limits.memory_bytes)
    yield _cpu(usage.cpu_seconds, limits.cpus, _seconds_run(report))
    yield _processes(usage.peak_pids, limits.pids)
    yield ("Shared memory", _UNMEASURED, size(limits.shm_bytes or _SHM_BYTES), "")
    if limits.gpus is not None:
        yield ("GPUs", _UNMEASURED, str(limits.gpus), "")
    read, written = usage.block_read_bytes, usage.block_write_bytes
    yield ("Disk", _both((read, "read"), (written, "written")), "none", "")
    received, sent = usage.network_received_bytes, usage.network_sent_bytes
    yield ("Network", _both((received, "received"), (sent, "sent")), "none", "")


def _seconds_run(report: RunReport) -> float | None:
    """How long the container ran, which its time limit counts; None for one that never did."""
    began, ended = report.container_started_at, report.container_finished_at
    return max(0.0, (ended - began).total_seconds()) if began and ended else None


def _time_row(report: RunReport) -> tuple[str, ...]:
    ran = _seconds_run(report)
    used = "it never ran" if ran is None else duration(ran)
    return ("Time", used, duration(report.timeout_seconds), _share(ran, report.timeout_seconds))


def _memory(peak: int | None, limit: int | None) -> tuple[str, ...]:
    used = "unknown" if peak is None else f"{size(peak)} at its peak"
    return ("Memory", used, size(limit) if limit else "none", _share(peak, limit))


def _cpu(used: float | None, limit: float | None, ran: float | None) -> tuple[str, ...]:
    bound = processors(limit) if limit else "none"
    if used is None:
        return ("CPU", "unknown", bound, "")
    mean = used / ran if ran else None
    about = f", {processors(mean)} on average" if mean is not None else ""
    return ("CPU", f"{used:.1f} CPU-seconds{about}", bound, _share(mean, limit))


def _processes(peak: int | None, limit: int) -> tuple[str, ...]:
    used = "unknown" if peak is None else f"{peak:,} at their peak, threads included"
    return ("Processes", used, f"{limit:,}", _share(peak, limit))


def _both(*amounts: tuple[int | None, str]) -> str:
    seen = [f"{size(number)} {verb}" for number, verb in amounts if number is not None]
    return ", ".join(seen) or "unknown"


def _share(part: float | None, whole: float | None) -> str:
    return "" if part is None or not whole else f"{100 * part / whole:.0f} %"


def _attempts(attempts: Sequence[Outcome]) -> Iterable[str]:
    if len(attempts) < 2:
        return
    rows = [
        (str(number), str(each.name), escape(each.error or "exited 0"))
        for number, each in enumerate(attempts, start=1)
    ]
    yield "## Attempts"
    yield table(("Attempt", "Outcome", "Why"), rows)


def _last_lines(report: RunReport, log: LogFacts) -> Iterable[str]:
    shown = shown_lines(log.tail.rstrip("\n"))
    yield "## Last lines"
    yield fence(shown or "(no output)")
    count = shown.count("\n") + 1
    if report.logs.lines > count:
        yield f"The last {count} of {report.logs.lines:,} lines; `runner.log` has them all."


def _files(report: RunReport, upload: Upload | None) -> Iterable[str]:
    artifacts, left_out = report.artifacts, report.artifacts_left_out
    yield f"## Files ({len(artifacts) + left_out})"
    if not artifacts:
        yield "None."
        return
    shown = artifacts[:50]
    address = upload.address if upload and not upload.error else ""
    # No table: a terminal would cut what is too long for its column.
    yield "\n".join(
        f"- {code(item.path)}, {_kind_of(item)}{_link(item, address)}" for item in shown
    )
    if more := len(artifacts) - len(shown):
        yield f"and {more} more: all are in `run.json`"
    if left_out:
        yield f"and {left_out} more that are listed nowhere"


def _link(item: Artifact, address: str) -> str:
    where = file_address(address, item.path) if address and item.kind == "file" else None
    return f", [open]({where})" if where else ""


def _kind_of(item: Artifact) -> str:
    if item.kind != "file":
        return "a link" if item.kind == "symlink" else "neither file nor link"
    checksum = f", sha256 {code(item.sha256[:12])}" if item.sha256 else ""
    return f"{size(item.size_bytes)}{checksum}"


def _facts_table(report: RunReport, upload: Upload | None) -> Iterable[str]:
    exact = code(image_name(report.image, report.image_digest))
    if not report.image_digest:
        exact = f"{code(report.image_id)}, on this host alone" if report.image_id else "none"
    facts = [
        ("Image", code(report.image)),
        ("Exact image", exact),
        ("Pull", _pull(report)),
        ("Command", code(report.command_summary)),
        ("Working directory", code(report.workdir)),
        ("Repository", code(report.repository) if report.repository else "none"),
        ("Commit", code(report.commit) if report.commit else "none"),
        ("Exit code", _exit(report)),
        ("Ended by", _ENDED_BY[report.stopped_by] if report.stopped_by else "it never ran"),
        ("Worker", code(report.worker)),
        ("Container", code(report.container_name)),
        *([("Uploaded to", code(upload.address))] if upload and not upload.error else []),
    ]
    yield "## What ran"
    yield "\n".join(f"- {name}: {value}" for name, value in facts)


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
    return f"{platform}, {amount} in {duration(report.image_pull_seconds or 0)}"


def _by_hand(report: RunReport) -> Iterable[str]:
    yield "## Run it by hand"
    if len(report.docker_run) > _LONGEST_COMMAND:
        yield "The command is long: it is `dockerRun` in `run.json`."
        return
    if report.secrets:
        names = ", ".join(map(code, report.secrets))
        yield f"Give {names} a value in your environment first: secrets are stored nowhere."
    yield fence(report.docker_run, "sh")
