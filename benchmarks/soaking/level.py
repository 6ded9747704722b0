"""Whether a worker's descriptors, threads and memory stay level over many tasks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import psutil

from benchmarks.measures import MIB, memory_bytes

# What comes and goes: a pool's connections, its threads, a cache.
_SWING = {"descriptors": 12, "threads": 12, "MiB": 30}


@dataclass(frozen=True, slots=True)
class Level:
    """Of an idle worker's process."""

    descriptors: int
    threads: int
    memory_mib: int

    @classmethod
    def of(cls, pid: int) -> Self:
        process = psutil.Process(pid)
        memory = round(memory_bytes(pid) / MIB)
        return cls(process.num_fds(), process.num_threads(), memory)

    def __str__(self) -> str:
        return f"{self.descriptors} descriptors, {self.threads} threads, {self.memory_mib} MiB"


def rises(before: Level, after: Level) -> Iterator[str]:
    """What has risen by more than what comes and goes, over a lap like the one before."""
    grown = {
        "descriptors": after.descriptors - before.descriptors,
        "threads": after.threads - before.threads,
        "MiB": after.memory_mib - before.memory_mib,
    }
    for name, more in grown.items():
        if more > _SWING[name]:
            yield f"{more} {name} more after another lap: {before}; then {after}"
