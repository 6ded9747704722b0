"""Read Docker's stats samples, of cgroup v1 and v2, and add them up in a `Usage`. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from flows.engine.usage import Usage, highest

Sample = Mapping[str, Any]
"""One answer of `GET /containers/x/stats`, of an engine on cgroup v1 or v2."""


def add(usage: Usage, sample: Sample) -> Usage:
    """`usage` with one more sample."""
    if not was_running(sample):
        return usage
    received, sent = _network_bytes(sample, "rx_bytes"), _network_bytes(sample, "tx_bytes")
    return Usage(
        peak_memory_bytes=highest(usage.peak_memory_bytes, memory_bytes(sample)),
        cpu_seconds=highest(usage.cpu_seconds, cpu_seconds(sample)),
        block_read_bytes=highest(usage.block_read_bytes, _block_bytes(sample, "read")),
        block_write_bytes=highest(usage.block_write_bytes, _block_bytes(sample, "write")),
        network_received_bytes=highest(usage.network_received_bytes, received),
        network_sent_bytes=highest(usage.network_sent_bytes, sent),
        samples=usage.samples + 1,
        peak_pids=highest(usage.peak_pids, (sample.get("pids_stats") or {}).get("current")),
    )


def moment(sample: Sample) -> float | None:
    """When the sample was taken, in seconds by the engine's clock; None where it does not say."""
    try:
        return datetime.fromisoformat(str(sample.get("read"))).timestamp()
    except ValueError:
        return None


def was_running(sample: Sample) -> bool:
    """Whether the sample is of a running container: of others the engine sends zeros, read at
    the zero time."""
    return not str(sample.get("read", "")).startswith("0001-")


def memory_bytes(sample: Sample) -> int | None:
    """Memory in use, as `docker stats` counts it: without inactive page cache.

    The `max_usage` of cgroup v1 is left alone: it includes the page cache of its moment, which
    nothing tells afterwards, so a task that only copies files would seem to need its whole limit.
    """
    memory = sample.get("memory_stats") or {}
    used: int | None = memory.get("usage")
    if used is None:
        return None
    stats = memory.get("stats") or {}
    # On cgroup v1 the name without "total_" leaves out the container's inner groups.
    cache: int = stats.get("total_inactive_file", stats.get("inactive_file", 0))
    return used - cache if cache < used else used


def cpu_seconds(sample: Sample) -> float | None:
    """CPU time used since the container's start, over all CPUs."""
    used = ((sample.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage")
    return None if used is None else used / 1e9


def _block_bytes(sample: Sample, operation: str) -> int | None:
    devices = (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    # Upper case on cgroup v1.
    return _sum(device["value"] for device in devices if device["op"].lower() == operation)


def _network_bytes(sample: Sample, counter: str) -> int | None:
    return _sum(network[counter] for network in (sample.get("networks") or {}).values())


def _sum(values: Iterable[int]) -> int | None:
    found = list(values)
    return sum(found) if found else None
