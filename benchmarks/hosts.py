"""Two hosts of one pool, each with a Docker Engine and a worker of its own; one dies on the way.

Short tasks; when a third of them are over, the second host's worker and engine are killed, with
all that runs there. When all tasks have ended, it comes back. Counts what became of the tasks, and
exits 1 unless each ended, once, and nothing is left on either engine.
"""

import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.counts import report
from benchmarks.measures import spending
from flows.runtime.store import known_jobs
from scripts.postgres import Postgres
from scripts.stack import FINAL, Stack, free_port
from tests.machines import Machine
from tests.runs import shell, until
from tests.weather import FINISHED, STARTED, Weather

app = App(name="scripts/benchmark hosts", help=__doc__)
console = Console(stderr=True)

_POLL_SECONDS = 2.0
# The shortest that a worker takes.
_PATIENCE_SECONDS = 60
_RETURN_SECONDS = 180.0


@app.default
def hosts(
    *,
    tasks: Annotated[int, Parameter(help="How many tasks to run.")] = 1000,
    limit: Annotated[int, Parameter(help="How many each host runs at a time.")] = 8,
    minutes: Annotated[float, Parameter(help="Give up after so many.")] = 30.0,
) -> None:
    """Run the tasks, and print the counts."""
    deadline = time.monotonic() + 60 * minutes
    with Postgres() as database, tempfile.TemporaryDirectory(prefix="moonmind-hosts-") as folder:
        settings = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url}
        home = Path(folder)
        with Stack(home / "stack", free_port(), settings) as stack:
            console.print("Starting Postgres, Prefect's server and two hosts.")
            stack.start_server()
            stack.create_pool()
            stack.deploy()
            patience = {"MOONMIND_HOST_PATIENCE_SECONDS": str(_PATIENCE_SECONDS)}
            first, second = (
                Machine(name, home / name, stack, limit=limit, settings=patience)
                for name in ("one", "two")
            )
            with first, second:
                first.start_worker()
                second.start_worker()
                processes = {
                    "server": stack.process("server").pid,
                    "database": database.pid,
                    "survivor": stack.process("one").pid,
                }
                size, commits = database.size_bytes, database.commits
                with spending(processes) as spent:
                    runs, killed_at = _run(stack, second, tasks, deadline)
                facts = _count(stack, (first, second), runs) | {
                    "seconds": round(spent.seconds, 1),
                    "killedAt": killed_at,
                    "commitsPerTask": round((database.commits - commits) / tasks, 1),
                    "databaseKiBPerTask": round((database.size_bytes - size) / 1024 / tasks, 1),
                    **{f"{name}Cpu": round(cpu / tasks, 3) for name, cpu in spent.cpu.items()},
                }
                console.print("All are over; the second host comes back.")
                second.come_back()
                until(lambda: not second.left(), _RETURN_SECONDS, "nothing left")
                facts["leftovers"] = len(first.left()) + len(second.left())
    facts["ok"] = facts["ok"] and not facts["leftovers"]
    report("Two hosts", facts)
    sys.exit(0 if facts["ok"] else 1)


def _run(stack: Stack, doomed: Machine, tasks: int, deadline: float) -> tuple[list[str], int]:
    """All runs, and how many were over when the host died."""
    weather = Weather(stack)
    task = shell("sleep 0.5; echo done", retry={"infrastructure": 3})
    with ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(lambda _: weather.submit(task), range(tasks)))
    killed_at = 0
    columns = (TextColumn("Runs over"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=tasks)
        while (over := _over(stack)) < tasks and time.monotonic() < deadline:
            progress.update(bar, completed=over)
            if not killed_at and over > tasks / 3:
                doomed.die()
                killed_at = over
            time.sleep(_POLL_SECONDS)
    return runs, killed_at


def _over(stack: Stack) -> int:
    # A crashed run is about to start again.
    over = {"state": {"type": {"any_": sorted(FINAL - {"CRASHED"})}}}
    named = {"name": {"any_": ["container-task"]}}
    return int(stack.api("POST", "/flow_runs/count", flow_runs=over, flows=named).json())


def _count(stack: Stack, hosts: tuple[Machine, ...], runs: list[str]) -> dict[str, Any]:
    weather = Weather(stack)
    states = Counter(stack.flow_run(run)["state_type"] for run in runs)
    told: Counter[tuple[str, str, int]] = Counter()
    for run in runs:
        for (event, attempt), times in weather.events(run).items():
            told[event, run, attempt] += times
    started = {(run, attempt) for event, run, attempt in told if event == STARTED}
    finished = {(run, attempt) for event, run, attempt in told if event == FINISHED}
    jobs = [set(known_jobs(host.jobs)) for host in hosts]
    return {
        "runs": len(runs),
        "states": dict(states),
        "perHost": {host.name: len(mine) for host, mine in zip(hosts, jobs, strict=True)},
        "onBothHosts": len(jobs[0] & jobs[1]),
        "started": len(started),
        "finished": len(finished),
        "toldTwice": sum(times > 1 for times in told.values()),
        "ok": states["COMPLETED"] == len(runs)
        and started == finished
        and {run for run, _ in started} == set(runs)
        and set(told.values()) == {1},
    }


if __name__ == "__main__":
    app()
