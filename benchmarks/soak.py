"""A soak: short tasks side by side, while their processes and their worker are killed.

Prints how many runs ended, how many `started` and `finished` events their attempts have, and what
is left on the engine; exits 1 unless all of it is as it must be. It kills only what it started.
"""

import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.counts import count, report
from flows.runtime.store import AttemptStore
from scripts.postgres import Postgres
from scripts.stack import FINAL, Stack, free_port
from tests.runs import shell
from tests.weather import Weather

app = App(name="scripts/benchmark soak", help=__doc__)
console = Console(stderr=True)

_POLL_SECONDS = 3.0
# A process for each run, so that there are processes to kill; each is killed about once on its way,
# and some of them often.
_KIND = "process"
_RESTARTS = 10


class Storm:
    """Kills a random flow process every few seconds, and the worker at two points of the way."""

    def __init__(self, weather: Weather, runs: list[str], limit: int, every: float) -> None:
        self.flows_killed = 0
        self.workers_killed = 0
        self._weather = weather
        self._runs = runs
        self._limit = limit
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._rage, daemon=True)
        # Fixed, so that a soak that found something can be had again.
        self._chance = random.Random(0)

    @contextlib.contextmanager
    def raging(self) -> Iterator[None]:
        """Kill for as long as the block runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()

    def kill_worker(self) -> None:
        """SIGKILL to the worker, and a fresh one in its place."""
        self._weather.kill_worker()
        self.workers_killed += 1
        self._weather.stack.start_worker(kind=_KIND, limit=self._limit)

    def _rage(self) -> None:
        while not self._over.wait(self._every):
            if not (processes := _flow_processes(self._runs)):
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._chance.choice(processes), signal.SIGKILL)
                self.flows_killed += 1


def _flow_processes(runs: list[str]) -> list[int]:
    """Processes that have one of our runs in their environment."""
    needles = {f"PREFECT__FLOW_RUN_ID={run}".encode() for run in runs}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if needles & set((folder / "environ").read_bytes().split(b"\0")):
                found.append(int(folder.name))
    return found


def _over(stack: Stack, runs: list[str]) -> set[str]:
    """The runs that have ended and of which everything is told; a crash may be taken up again."""
    wanted = {"id": {"any_": runs}, "state": {"type": {"any_": sorted(FINAL)}}}
    final = stack.api("POST", "/flow_runs/filter", flow_runs=wanted, limit=200).json()
    return {run["id"] for run in final if _is_told(stack, run)}


def _is_told(stack: Stack, run: dict[str, Any]) -> bool:
    newest = AttemptStore(stack.jobs, run["id"]).last()
    if newest is None:
        return _crashes(stack, run["id"]) > _RESTARTS
    return newest.published


def _crashes(stack: Stack, run_id: str) -> int:
    return sum(kind == "CRASHED" for kind, _ in groupby(_history(stack, run_id)))


def _history(stack: Stack, run_id: str) -> list[str]:
    """The types of the run's states, oldest first."""
    states = stack.api("GET", f"/flow_run_states/?flow_run_id={run_id}").json()
    return [state["type"] for state in sorted(states, key=itemgetter("timestamp"))]


@app.default
def soak(
    *,
    tasks: Annotated[int, Parameter(help="How many tasks to run.")] = 200,
    concurrency: Annotated[int, Parameter(help="How many at a time.")] = 8,
    kill_every: Annotated[float, Parameter(help="Seconds between two kills.")] = 6.0,
    minutes: Annotated[float, Parameter(help="Give up after so many.")] = 30.0,
) -> None:
    """Run the soak and print its counts."""
    deadline = time.monotonic() + 60 * minutes
    with Postgres() as database, tempfile.TemporaryDirectory(prefix="moonmind-soak-") as folder:
        settings = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url}
        with Stack(Path(folder), free_port(), settings) as stack:
            console.print("Starting Postgres, Prefect's server and a worker.")
            stack.start_server()
            stack.create_pool(kind=_KIND)
            stack.deploy()
            weather = Weather(stack)
            started = time.monotonic()
            task = shell("sleep 0.5; echo done", retry={"infrastructure": _RESTARTS})
            runs = [weather.submit(task) for _ in range(tasks)]
            stack.start_worker(kind=_KIND, limit=concurrency)
            storm = Storm(weather, runs, concurrency, kill_every)
            with storm.raging():
                _see_through(stack, storm, runs, deadline)
            seconds = time.monotonic() - started
            facts = count(weather, runs) | {
                "seconds": round(seconds, 1),
                "flowProcessesKilled": storm.flows_killed,
                "workersKilled": storm.workers_killed,
            }
    report("Soak", facts)
    sys.exit(0 if facts["ok"] else 1)


def _see_through(stack: Stack, storm: Storm, runs: list[str], deadline: float) -> None:
    open_runs = list(runs)
    columns = (TextColumn("Runs over"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(runs))
        while open_runs and time.monotonic() < deadline:
            over = _over(stack, open_runs)
            open_runs = [run for run in open_runs if run not in over]
            progress.update(bar, completed=len(runs) - len(open_runs))
            done = len(runs) - len(open_runs)
            if storm.workers_killed < 2 and done > (storm.workers_killed + 1) * len(runs) / 3:
                storm.kill_worker()
            time.sleep(_POLL_SECONDS)
    for run in open_runs:
        console.print(f"Not over: {run}: {', '.join(_history(stack, run))}")


if __name__ == "__main__":
    app()
