"""A worker that restarts under running tasks: told to stop, then killed, each time replaced.

Counts what became of the tasks and exits 1 unless none was lost, doubled or failed.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from benchmarks.counts import count, report
from scripts.postgres import Postgres
from scripts.stack import Stack, free_port
from tests.runs import shell, until
from tests.weather import Weather

app = App(name="scripts/benchmark restart", help=__doc__)
console = Console(stderr=True)

_TASK = (
    "until [ -e $ARTIFACT_DIR/../enough ]; do i=$((i+1)); echo line $i; sleep 1; done; echo the end"
)
_PATIENCE_SECONDS = 300.0


@app.default
def restart(*, tasks: Annotated[int, Parameter(help="How many tasks run at a time.")] = 50) -> None:
    """Restart the worker twice under running tasks, and print the counts."""
    with Postgres() as database, tempfile.TemporaryDirectory(prefix="moonmind-restart-") as folder:
        settings = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url}
        with Stack(Path(folder), free_port(), settings) as stack:
            console.print("Starting Postgres, Prefect's server and a worker.")
            stack.start()
            facts = _restart_under(Weather(stack), tasks)
    report("Restart", facts)
    sys.exit(0 if facts["ok"] else 1)


def _restart_under(weather: Weather, tasks: int) -> dict[str, object]:
    stack = weather.stack
    runs = [weather.submit(shell(_TASK, timeoutSeconds=1800)) for _ in range(tasks)]
    for run_id in runs:
        until(lambda: weather.output(run_id), _PATIENCE_SECONDS, "its first line")  # noqa: B023
    seconds = {}
    ways: tuple[tuple[str, Callable[[], None]], ...] = (
        ("toldToStop", lambda: stack.stop("worker")),
        ("killed", weather.kill_worker),
    )
    for way, stop in ways:
        adopted = {run_id: weather.journal(run_id).count("Adopting") for run_id in runs}
        began = time.monotonic()
        stop()
        console.print(f"The worker is gone after {time.monotonic() - began:.1f} s.")
        began = time.monotonic()
        stack.start_worker()
        for run_id in runs:
            until(
                lambda: weather.journal(run_id).count("Adopting") > adopted[run_id],  # noqa: B023
                _PATIENCE_SECONDS,
                "its adoption",
            )
        seconds[f"{way}AllAdoptedSeconds"] = round(time.monotonic() - began, 1)
    for run_id in runs:
        weather.let_end(run_id)
    for run_id in runs:
        weather.end(run_id, _PATIENCE_SECONDS)
        weather.assert_counted(run_id)
    facts = count(weather, runs) | seconds
    facts["ok"] = facts["ok"] and facts["states"] == {"COMPLETED": tasks}
    return facts


if __name__ == "__main__":
    app()
