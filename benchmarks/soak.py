"""A soak: tasks of ten kinds on two hosts with two engines, in a storm, with people at them.

By `--seed`, workers are killed and replaced, hosts cut off from the server and from their engines
and returned, engines and the server restarted, and runs cancelled, suspended, retried, deleted and
set to states. Witnesses in the containers tell whether two of a run were ever there at once; at the
end every run's verdict is held against what it was made to do, or what a person said of it. Prints
counts and violations, and exits 1 where there are any. It kills only what it started.
"""

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.counts import report
from benchmarks.soaking import witness
from benchmarks.soaking.checks import Evidence, late_seconds, violations
from benchmarks.soaking.level import Level, rises
from benchmarks.soaking.people import People, Run
from benchmarks.soaking.plan import Task, tasks
from benchmarks.soaking.server import Server
from benchmarks.soaking.storm import Storm
from scripts.postgres import Postgres
from scripts.stack import Stack, free_port
from tests.machines import Machine

app = App(name="scripts/benchmark soak", help=__doc__)
console = Console(stderr=True)

_LOOK_SECONDS = 1.5
# Open at a time: of many tasks more than the hosts run, so that there is a queue.
_LEAST_OPEN, _MOST_OPEN = 12, 120
_LIMIT = 16
_PATIENCE_SECONDS = 60
# What is left may wait for a host's patience, for pauses between attempts, and for sweeps.
_SETTLE_SECONDS = 300.0
# Of the tasks, so many run when the storm is over.
_CALM = 0.1


@dataclass(frozen=True)
class Soak:
    """What is up while it lasts; it gives up at `end`, by the monotonic clock."""

    stack: Stack
    machines: tuple[Machine, Machine]
    server: Server
    people: People
    witnesses: Path
    seed: int
    end: float

    def submit(self, todo: Sequence[Task], progress: Progress) -> None:
        """Submit the tasks, so that there is always a queue, and no more."""
        open_at_a_time = max(_LEAST_OPEN, min(_MOST_OPEN, len(todo) // 5))
        bar = progress.add_task("Submitted", total=len(todo))
        for number, task in enumerate(todo):
            while len(self.people.open) >= open_at_a_time:
                if time.monotonic() > self.end:
                    return
                self.people.look()
                time.sleep(_LOOK_SECONDS)
            self.people.watch(self.server.submit(self.seed, task), task)
            progress.update(bar, completed=number + 1)

    def finish(self, progress: Progress) -> None:
        """Wait for all that are open, for as long as some of them end."""
        bar = progress.add_task("Over", total=len(self.people.runs))
        opened, moved = len(self.people.runs) + 1, time.monotonic()
        while self.people.open and time.monotonic() < moved + _SETTLE_SECONDS:
            if len(self.people.open) < opened:
                opened, moved = len(self.people.open), time.monotonic()
            progress.update(bar, completed=len(self.people.runs) - opened)
            self.people.look()
            time.sleep(_LOOK_SECONDS)
        progress.update(bar, completed=len(self.people.runs) - len(self.people.open))

    def left(self) -> list[str]:
        """What is on the engines when all had the time to remove it."""
        end = time.monotonic() + _SETTLE_SECONDS
        while (left := [name for each in self.machines for name in each.left()]) and (
            time.monotonic() < end
        ):
            time.sleep(_LOOK_SECONDS)
        return left

    def levels(self) -> dict[str, Level]:
        return {each.name: Level.of(each.worker_pid) for each in self.machines}

    def evidence(self, disks_lost: Sequence[tuple[str, float]]) -> Iterator[Evidence]:
        """Of every run, as it is now."""
        with ThreadPoolExecutor(4) as threads:
            ask = partial(self._evidence, disks_lost)
            yield from threads.map(ask, self.people.runs.values())

    def _evidence(self, disks_lost: Sequence[tuple[str, float]], run: Run) -> Evidence:
        return Evidence(
            run.id,
            run.task,
            run.said,
            self.server.history(run.id),
            self.server.events(run.id),
            witness.testify(self.witnesses, run.id),
            disks_lost,
            self._report(run.id),
        )

    def _report(self, run_id: str) -> dict[str, Any] | None:
        """Of the newest attempt of which a host has one."""
        reports = []
        for machine in self.machines:
            with suppress(FileNotFoundError):
                reports.append(machine.weather.run_json(run_id))
        return max(reports, key=lambda report: report["attempt"], default=None)


@app.default
def soak(
    *,
    tasks: Annotated[int, Parameter(help="How many tasks to run.")] = 2000,
    seed: Annotated[int, Parameter(help="Chooses tasks, words and deeds.")] = 1,
    minutes: Annotated[float, Parameter(help="Give up after so many.")] = 60.0,
    smoke: Annotated[bool, Parameter(help="A few tasks: 40.")] = False,
    keep: Annotated[Path | None, Parameter(help="Leave logs and evidence in this folder.")] = None,
) -> None:
    """Run the soak and print its counts."""
    count = 40 if smoke else tasks
    with _up(seed, time.monotonic() + 60 * minutes, keep) as up:
        facts, found = _soaked(up, count)
    for sentence in found:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    report("Soak", facts)
    sys.exit(0 if facts["ok"] else 1)


@contextmanager
def _up(seed: int, end: float, keep: Path | None) -> Iterator[Soak]:
    """A server on Postgres, and two hosts without workers."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, Postgres() as database:
        home = keep.absolute() if keep else Path(folder)
        settings = {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url,
            "MOONMIND_HOST_PATIENCE_SECONDS": str(_PATIENCE_SECONDS),
        }
        with Stack(home, free_port(), settings) as stack:
            console.print(f"Seed {seed}. Starting Postgres, Prefect's server and two hosts.")
            stack.start_server()
            stack.create_pool()
            stack.deploy()
            # Engines have sockets below it, and leave nothing.
            one, two = (Machine(n, Path(folder) / n, stack, limit=_LIMIT) for n in ("one", "two"))
            witnesses = home / "witnesses"
            with one, two, Server(stack) as server:
                for machine in (one, two):
                    witness.employ(machine, witnesses)
                assert witness.are_awake(one, two, witnesses), "the witnesses would see nothing"
                yield Soak(stack, (one, two), server, People(server), witnesses, seed, end)
                for machine in (one, two):
                    machine.stop_worker()
                    # What is left was counted, and would hold the witnesses' volume.
                    machine.empty_disk()
                    witness.dismiss(machine)


def _soaked(up: Soak, count: int) -> tuple[dict[str, Any], list[str]]:
    """Counts, and violations."""
    planned = tasks(up.seed, count)
    stormy, *calm = _split(planned)
    storm, began = Storm(up.stack, up.machines, up.seed, _tell), time.monotonic()
    for machine in up.machines:
        machine.start_worker()
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        with storm.raging():
            up.submit(stormy, progress)
        up.finish(progress)
        left, levels = up.left(), list[dict[str, Level]]()
        for lap in calm:
            up.submit(lap, progress)
            up.finish(progress)
            left += [name for name in up.left() if name not in left]
            levels.append(up.levels())
    before, after = levels
    lost = [(host.name, second) for host in storm.hosts for second in host.disks_lost]
    evidence = list(up.evidence(lost))
    # For whoever looks for the cause; it stays where a folder is named to keep it in.
    told = json.dumps([asdict(each) for each in evidence], default=str, indent=1)
    (up.stack.home / "evidence.json").write_text(told)
    found = [
        f"{each.run_id} ({each.task.kind.name}, task {each.task.number}): {sentence}"
        for each in evidence
        for sentence in violations(each)
    ]
    found += [f"{name} is left on an engine" for name in left]
    found += [end for host in storm.hosts for end in host.ends]
    found += [f"{n}: {risen}" for n in before for risen in rises(before[n], after[n])]
    return _facts(up, storm, evidence, found) | {
        "seconds": round(time.monotonic() - began),
        **{f"{name} after a calm lap": str(level) for name, level in before.items()},
        **{f"{name} after two": str(level) for name, level in after.items()},
    }, found


def _split(planned: Sequence[Task]) -> tuple[Sequence[Task], Sequence[Task], Sequence[Task]]:
    """Those of the storm, and two laps without: what a first use makes is there after one."""
    lap = max(1, round(len(planned) * _CALM / 2))
    return planned[: -2 * lap], planned[-2 * lap : -lap], planned[-lap:]


def _tell(sentence: str) -> None:
    console.print(f"{datetime.now():%H:%M:%S} {sentence}", markup=False, highlight=False)


def _facts(
    up: Soak, storm: Storm, evidence: Sequence[Evidence], found: Sequence[str]
) -> dict[str, Any]:
    ends = Counter(each.history[-1].name if each.history else "deleted" for each in evidence)
    hosts = Counter(host for each in evidence for host in {seen.host for seen in each.seen})
    late = sorted(each for run in evidence if (each := late_seconds(run)))
    return {
        "seed": up.seed,
        "runs": len(evidence),
        "ends": dict(ends),
        "containers": sum(len({seen.container for seen in each.seen}) for each in evidence),
        "runs by host": dict(hosts),
        "runs on both hosts": sum(len({seen.host for seen in e.seen}) > 1 for e in evidence),
        "started": sum(e.name == "started" for each in evidence for e in each.events),
        "finished": sum(e.name == "finished" for each in evidence for e in each.events),
        "deeds": dict(storm.done),
        "words": dict(up.people.said),
        "seconds from a word to its end": f"{late[len(late) // 2]:.1f} (median), {late[-1]:.1f}"
        if late
        else "none",
        "violations": len(found),
        "ok": not found and len(evidence) > 0,
    }


if __name__ == "__main__":
    app()
