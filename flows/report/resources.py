"""What a run used of its resources against their limits, in the words of its report. Pure."""

from collections.abc import Iterator

from flows.report.run_json import RunReport
from flows.units import duration, processors, size

# What Docker gives a container that asks for nothing else.
_SHM_BYTES = 64 * 1024**2
_UNMEASURED = "not measured"

Row = tuple[str, str, str, str]


def resource_rows(report: RunReport) -> Iterator[Row]:
    """Resource, used, limit and share; a row each."""
    limits, usage = report.limits, report.usage
    yield _time(report)
    yield _memory(usage.peak_memory_bytes, limits.memory_bytes)
    yield _cpu(usage.cpu_seconds, limits.cpus, seconds_run(report))
    yield _processes(usage.peak_pids, limits.pids)
    yield ("Shared memory", _UNMEASURED, size(limits.shm_bytes or _SHM_BYTES), "")
    if limits.gpus is not None:
        yield ("GPUs", _UNMEASURED, str(limits.gpus), "")
    read, written = usage.block_read_bytes, usage.block_write_bytes
    yield ("Disk", _both((read, "read"), (written, "written")), "none", "")
    received, sent = usage.network_received_bytes, usage.network_sent_bytes
    yield ("Network", _both((received, "received"), (sent, "sent")), "none", "")


def seconds_run(report: RunReport) -> float | None:
    """How long the container ran, which its time limit counts; None for one that never did."""
    if report.container_started_at is None or report.container_finished_at is None:
        return None
    ran = report.container_finished_at - report.container_started_at
    return max(0.0, ran.total_seconds())


def _time(report: RunReport) -> Row:
    ran = seconds_run(report)
    used = "it never ran" if ran is None else duration(ran)
    return ("Time", used, duration(report.timeout_seconds), share(ran, report.timeout_seconds))


def _memory(peak: int | None, limit: int | None) -> Row:
    used = "unknown" if peak is None else f"{size(peak)} at its peak"
    return ("Memory", used, size(limit) if limit else "none", share(peak, limit))


def _cpu(used: float | None, limit: float | None, ran: float | None) -> Row:
    bound = processors(limit) if limit else "none"
    if used is None:
        return ("CPU", "unknown", bound, "")
    mean = used / ran if ran else None
    about = f", {processors(mean)} on average" if mean is not None else ""
    return ("CPU", f"{used:.1f} CPU-seconds{about}", bound, share(mean, limit))


def _processes(peak: int | None, limit: int) -> Row:
    used = "unknown" if peak is None else f"{peak:,} at their peak, threads included"
    return ("Processes", used, f"{limit:,}", share(peak, limit))


def _both(*amounts: tuple[int | None, str]) -> str:
    seen = [f"{size(number)} {verb}" for number, verb in amounts if number is not None]
    return ", ".join(seen) or "unknown"


def share(part: float | None, whole: float | None) -> str:
    return "" if part is None or not whole else f"{100 * part / whole:.0f} %"
