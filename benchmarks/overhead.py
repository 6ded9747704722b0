"""What a task costs: our worker beside a process pool, a hand-written flow and plain `docker run`.

All on this machine and in one go, so that the ratios mean something although the figures are the
machine's. Prefect's server runs on a Postgres of its own. The last line is JSON.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import psutil
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from benchmarks.measures import (
    FLOOD,
    MIB,
    docker_run_flood_seconds,
    docker_run_rate,
    memory_bytes,
    spending,
)
from scripts.postgres import Postgres
from scripts.stack import FINAL, ROOT, Stack, free_port
from tests.runs import BUSYBOX, shell, until
from tests.weather import Weather

app = App(name="scripts/benchmark overhead", help=__doc__)
console = Console(stderr=True)

# Its shell hears a signal at once, which one that waits for `sleep` itself would not.
SLEEPER = """
trap 'echo stopped; exit 1' TERM
echo up
until [ -e $ARTIFACT_DIR/../enough ]; do sleep 5 & wait $!; done
"""
_SUBMITTERS = 4
_POLL_SECONDS = 0.25
_LONGEST_SECONDS = 600.0


@dataclass(frozen=True)
class Sizes:
    """How much of everything; the figures that the project is judged by need the defaults."""

    bursts: tuple[int, ...] = (40, 400)
    peer_burst: int = 20
    latencies: int = 20
    sleepers: tuple[int, ...] = (1, 50, 200)
    docker_runs: int = 40


SMOKE = Sizes(bursts=(4, 8), peer_burst=2, latencies=2, sleepers=(1, 4), docker_runs=4)


class Bench:
    """One stack, and the measurements on it."""

    def __init__(self, stack: Stack, database: Postgres, sizes: Sizes) -> None:
        self.stack = stack
        self._database = database
        self._sizes = sizes
        self._ours = Weather(stack)

    def burst(self, tasks: int, submit: Callable[[], str], worker: str) -> dict[str, float]:
        """Submit `tasks` at once; what they took from the first submission to the last end."""
        processes = {
            "server": self.stack.process("server").pid,
            "database": self._database.pid,
            "worker": self.stack.process(worker).pid,
        }
        with spending(processes) as spent:
            with ThreadPoolExecutor(_SUBMITTERS) as threads:
                runs = list(threads.map(lambda _: submit(), range(tasks)))
            self._await_all(runs)
        per_task = {name: round(cpu / tasks, 3) for name, cpu in spent.cpu.items()}
        return {"tasksPerSecond": round(tasks / spent.seconds, 3), **per_task}

    def latency(self) -> dict[str, float]:
        """Seconds from a submission to the container's start, one task at a time."""
        seconds = sorted(self._latency() for _ in range(self._sizes.latencies))
        p95 = seconds[min(len(seconds) - 1, round(0.95 * len(seconds)))]
        return {"p50": round(statistics.median(seconds), 3), "p95": round(p95, 3)}

    def peer_latency(self, weather: Weather) -> float:
        """The same on another pool, median of three."""
        return round(statistics.median(self._latency(weather) for _ in range(3)), 3)

    def memory(self) -> dict[str, float]:
        """MiB of our worker for each container that sleeps on it."""
        worker = self.stack.process("worker").pid
        idle, running, found = memory_bytes(worker), list[str](), dict[str, float]()
        for count in self._sizes.sleepers:
            running += self._sleep(self._ours, count - len(running))
            found[str(count)] = round((memory_bytes(worker) - idle) / count / MIB, 2)
        found["cancelSeconds"] = self._cancel_seconds(running.pop())
        self._wake(self._ours, running)
        return found

    def peer_memory(self, weather: Weather, worker: str) -> float:
        """MiB of a process pool for each of three containers that sleep on it."""
        pid = self.stack.process(worker).pid
        until(lambda: not psutil.Process(pid).children())
        idle = memory_bytes(pid)
        running = self._sleep(weather, 3)
        taken = (memory_bytes(pid) - idle) / len(running) / MIB
        self._wake(weather, running)
        return round(taken, 1)

    def flood_seconds(self) -> float:
        """How long a container with 100 MB of output takes here, start to whole log."""
        run_id = self._ours.submit(shell(FLOOD))
        self._ours.end(run_id, _LONGEST_SECONDS)
        return float(self._ours.run_json(run_id)["stageSeconds"]["run"])

    def start_seconds(self) -> float:
        """From the command `prefect worker start` to the first task that it takes."""
        self.stack.stop("worker")
        run_id = self._ours.submit(shell("true"))
        began = time.time()
        self.stack.start_worker()
        self._ours.end(run_id)
        states = self.stack.api("GET", f"/flow_run_states/?flow_run_id={run_id}").json()
        taken = min(_time(state["timestamp"]) for state in states if state["type"] == "PENDING")
        return round(taken - began, 2)

    def submit_true(self) -> str:
        """One task that does nothing, to our pool."""
        return self._ours.submit(shell("true"))

    def _latency(self, weather: Weather | None = None) -> float:
        weather = weather or self._ours
        began = time.time()
        run_id = weather.submit(shell("true"))
        weather.end(run_id)
        return _time(weather.run_json(run_id)["containerStartedAt"]) - began

    def _sleep(self, weather: Weather, count: int) -> list[str]:
        task = shell(SLEEPER)
        runs = [weather.submit(task) for _ in range(count)]
        deadline = time.monotonic() + _LONGEST_SECONDS
        for run_id in runs:
            while "up\n" not in weather.output(run_id) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        return runs

    def _wake(self, weather: Weather, runs: list[str]) -> None:
        for run_id in runs:
            weather.let_end(run_id)
        self._await_all(runs)

    def _cancel_seconds(self, run_id: str) -> float:
        """From a cancellation to the container's SIGTERM, among all the others."""
        began = time.monotonic()
        self._ours.cancel(run_id)
        while "stopped\n" not in self._ours.output(run_id) and time.monotonic() < began + 60:
            time.sleep(0.02)
        return round(time.monotonic() - began, 2)

    def _await_all(self, runs: list[str]) -> None:
        deadline = time.monotonic() + _LONGEST_SECONDS
        over = {"id": {"any_": runs}, "state": {"type": {"any_": sorted(FINAL)}}}
        while self.stack.api("POST", "/flow_runs/count", flow_runs=over).json() < len(runs):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(runs)} runs did not end in {_LONGEST_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)


def _time(value: str) -> float:
    return datetime.fromisoformat(value).timestamp()


@app.default
def overhead(
    *,
    smoke: Annotated[bool, Parameter(help="A few of everything, to see that it works.")] = False,
    peers: Annotated[bool, Parameter(help="Measure the process pools too.")] = True,
    limit: Annotated[int, Parameter(help="How many tasks our worker runs at a time; 0: all.")] = 0,
) -> None:
    """Measure, and print a table and a line of JSON."""
    sizes = SMOKE if smoke else Sizes()
    with Postgres() as database, tempfile.TemporaryDirectory(prefix="moonmind-bench-") as folder:
        settings = {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url,
            "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "2",
            # Where the hand-written flow is found.
            "PYTHONPATH": str(ROOT),
        }
        with Stack(Path(folder), free_port(), settings) as stack:
            facts = _measure(stack, database, sizes, peers=peers, limit=limit)
    _report(facts)


def _measure(
    stack: Stack, database: Postgres, sizes: Sizes, *, peers: bool, limit: int
) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    with console.status("docker run") as status:

        def note(key: str, value: object) -> None:
            facts[key] = value
            console.print(f"{key}: {value}")

        for wide in (4, 8):
            note(f"dockerRun{wide}", round(docker_run_rate(sizes.docker_runs, wide), 3))
        note("floodDockerRunSeconds", _flood(stack))
        status.update("Prefect's server and our worker")
        stack.start_server()
        stack.create_pool()
        stack.start_worker(limit=limit or None)
        stack.deploy()
        bench = Bench(stack, database, sizes)
        bench.burst(2, bench.submit_true, "worker")
        status.update("latency")
        note("latency", bench.latency())
        for tasks in sizes.bursts:
            status.update(f"a burst of {tasks}")
            note(f"burst{tasks}", bench.burst(tasks, bench.submit_true, "worker"))
        status.update("100 MB of output")
        note("floodSeconds", bench.flood_seconds())
        status.update("sleeping containers")
        note("memoryPerTask", bench.memory())
        status.update("the worker's start")
        note("startSeconds", bench.start_seconds())
        if peers:
            status.update("process pools")
            stack.stop("worker")
            _measure_peers(bench, sizes, note)
    return facts


def _measure_peers(bench: Bench, sizes: Sizes, note: Callable[[str, object], None]) -> None:
    stack = bench.stack
    processes = Weather.over_pool(stack, "processes", "process")
    note("processLatency", bench.peer_latency(processes))
    burst = bench.burst(sizes.peer_burst, lambda: processes.submit(shell("true")), "processes")
    note("processBurst", burst)
    note("processMemoryPerTask", bench.peer_memory(processes, "processes"))
    plain = _deploy_plain(stack)
    note(
        "plainBurst",
        bench.burst(sizes.peer_burst, lambda: _submit_plain(stack, plain), "processes"),
    )


def _deploy_plain(stack: Stack) -> str:
    flow = stack.api("POST", "/flows/", name="plain").json()
    return stack.register(
        flow_id=flow["id"],
        name="plain",
        entrypoint="benchmarks.plain_flow.plain",
        work_pool_name="processes",
        job_variables={"stream_output": False},
    )


def _submit_plain(stack: Stack, deployment_id: str) -> str:
    answer = stack.api(
        "POST",
        f"/deployments/{deployment_id}/create_flow_run",
        parameters={"image": BUSYBOX, "command": ["true"]},
        state={"type": "SCHEDULED"},
    )
    answer.raise_for_status()
    return str(answer.json()["id"])


def _flood(stack: Stack) -> float:
    stack.home.mkdir(parents=True, exist_ok=True)
    return round(docker_run_flood_seconds(stack.home / "flood"), 2)


def _report(facts: dict[str, Any]) -> None:
    first, last = (facts[key] for key in facts if key.startswith("burst"))
    ratios: dict[str, Any] = {
        "throughputToDockerRun4": _rounded(first["tasksPerSecond"] / facts["dockerRun4"]),
        "latencyP50Seconds": facts["latency"]["p50"],
        "memoryPerTaskMiB": max(
            v for k, v in facts["memoryPerTask"].items() if k.isdigit() and k != "1"
        ),
        "throughputLargeToSmallBurst": _rounded(last["tasksPerSecond"] / first["tasksPerSecond"]),
        "floodRateToDockerRun": _rounded(facts["floodDockerRunSeconds"] / facts["floodSeconds"]),
        "startSeconds": facts["startSeconds"],
    }
    targets = {
        "throughputToDockerRun4": "≥ 0.6",
        "latencyP50Seconds": "≤ 0.4",
        "memoryPerTaskMiB": "≤ 1.5",
        "throughputLargeToSmallBurst": "≥ 0.9",
        "floodRateToDockerRun": "≥ 0.9",
        "startSeconds": "≤ 4",
    }
    table = Table("Figure", "Measured", "Target", title="Overhead")
    for key, target in targets.items():
        table.add_row(key, str(ratios[key]), target)
    console.print(table)
    sys.stdout.write(json.dumps(facts | {"ratios": ratios}) + "\n")


def _rounded(value: float) -> float:
    return round(value, 2)


if __name__ == "__main__":
    app()
