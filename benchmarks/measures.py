"""What a benchmark reads from the machine: processor time and memory of processes, and peers."""

import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.runs import BUSYBOX

MIB = 1024**2
FLOOD = "yes $(printf '%0.99d' 0) | head -n 1000000"


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and of all its descendants, dead ones included."""
    total = 0.0
    for each in _family(pid):
        try:
            used = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system + used.children_user + used.children_system
    return total


def memory_bytes(pid: int) -> int:
    """Memory of a process and its descendants; what several share is counted once."""
    total = 0
    for each in _family(pid):
        try:
            total += int(each.memory_full_info().pss)
        except psutil.NoSuchProcess:
            continue
    return total


def _family(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def machine_cpu_seconds() -> float:
    """Processor time of everything on this machine since it started, waiting left out."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


@dataclass(slots=True)
class Spent:
    """Wall and processor seconds of a block, known after it; `rest` is what is in no process
    that was named: Docker, the containers, and whoever submits."""

    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)


@contextmanager
def spending(processes: Mapping[str, int]) -> Iterator[Spent]:
    """Measure what the named processes and the machine spend in the block."""
    spent = Spent()
    before = {name: cpu_seconds(pid) for name, pid in processes.items()}
    machine, began = machine_cpu_seconds(), time.monotonic()
    yield spent
    spent.seconds = time.monotonic() - began
    spent.cpu = {name: cpu_seconds(pid) - before[name] for name, pid in processes.items()}
    spent.cpu["rest"] = machine_cpu_seconds() - machine - sum(spent.cpu.values())


def docker_run_rate(tasks: int, side_by_side: int) -> float:
    """`docker run --rm … true` a second."""
    began = time.monotonic()
    with ThreadPoolExecutor(side_by_side) as threads:
        list(threads.map(lambda _: _docker_run("true"), range(tasks)))
    return tasks / (time.monotonic() - began)


def docker_run_flood_seconds(path: Path) -> float:
    """How long `docker run --rm` takes to write 100 MB of output to a file."""
    began = time.monotonic()
    with path.open("wb") as file:
        subprocess.run(
            ["docker", "run", "--rm", BUSYBOX, "sh", "-c", FLOOD], stdout=file, check=True
        )
    return time.monotonic() - began


def _docker_run(*command: str) -> None:
    subprocess.run(["docker", "run", "--rm", BUSYBOX, *command], check=True, capture_output=True)
