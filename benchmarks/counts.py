"""What became of many runs: their ends, their events, what they left."""

import json
import sys
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.runtime.store import AttemptStore
from scripts.stack import FINAL
from tests.runs import left_on_engine
from tests.weather import FINISHED, STARTED, Weather


def count(weather: Weather, runs: list[str]) -> dict[str, Any]:
    """What became of all runs."""
    stack = weather.stack
    states = Counter(stack.flow_run(run)["state_type"] for run in runs)
    attempts = {run: len(AttemptStore(stack.jobs, run).attempts()) for run in runs}
    expected = {(run, n) for run, count in attempts.items() for n in range(1, count + 1)}
    told = {STARTED: Counter[tuple[str, int]](), FINISHED: Counter[tuple[str, int]]()}
    for run in runs:
        for (event, attempt), times in weather.events(run).items():
            told[event][run, attempt] += times
    left = [name for run in runs for name in left_on_engine(run)]
    facts: dict[str, Any] = {
        "runs": len(runs),
        "terminal": sum(states[state] for state in FINAL),
        "states": dict(states),
        "attempts": len(expected),
        "started": sum(told[STARTED].values()),
        "finished": sum(told[FINISHED].values()),
        "leftovers": len(left),
        # Neither a killed flow nor a killed worker is to cost a container.
        "ranTwice": sum(count > 1 for count in attempts.values()),
    }
    once = dict.fromkeys(expected, 1)
    facts["ok"] = (
        facts["terminal"] == len(runs)
        and dict(told[STARTED]) == once == dict(told[FINISHED])
        and not left
        and not facts["ranTwice"]
    )
    return facts


def report(title: str, facts: dict[str, Any]) -> None:
    """Print a table for people, and a line of JSON."""
    table = Table("Count", "", title=title)
    for key, value in facts.items():
        table.add_row(key, str(value))
    Console(stderr=True).print(table)
    sys.stdout.write(json.dumps(facts) + "\n")
