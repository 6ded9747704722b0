"""People who say what the plan has of runs: cancel, suspend, resume, retry, delete, set state."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.soaking.plan import Task, Word
from benchmarks.soaking.server import Server
from scripts.stack import FINAL

_WHEN = {"RUNNING": "running", "PAUSED": "suspended", **dict.fromkeys(FINAL, "over")}


class Said(NamedTuple):
    """A word, whether the server took it, and the second of this machine at which it was said."""

    word: Word
    is_taken: bool
    second: float


@dataclass
class Run:
    """A run that is not over, and what is still to be said of it."""

    id: str
    task: Task
    said: list[Said] = field(default_factory=list)
    next_word: int = 0
    since: dict[str, float] = field(default_factory=dict)
    is_over: bool = False

    def look(self, type_: str | None) -> Word | None:
        """With the type of its state, None where it is gone: the word that is due."""
        if type_ is None:
            self.is_over = True
            return None
        now, when = time.monotonic(), _WHEN.get(type_, "asked")
        self.since.setdefault("asked", now)
        self.since.setdefault(when, now)
        sayings = self.task.sayings
        while self.next_word < len(sayings):
            saying = sayings[self.next_word]
            if when == "over" and saying.when != "over":
                self.next_word += 1
            elif (begun := self.since.get(saying.when)) and now >= begun + saying.seconds:
                self.next_word += 1
                self.since.pop("over", None)
                return saying.word
            else:
                return None
        self.is_over = when == "over"
        return None


class People:
    """They look at all runs that are open every now and then, and say what is due."""

    def __init__(self, server: Server) -> None:
        self.runs: dict[str, Run] = {}
        self.said: Counter[str] = Counter()
        self._server = server

    @property
    def open(self) -> list[Run]:
        return [run for run in self.runs.values() if not run.is_over]

    def watch(self, run_id: str, task: Task) -> None:
        """Have an eye on a run."""
        self.runs[run_id] = Run(run_id, task)

    def look(self) -> None:
        """Once, at every run that is open."""
        types = self._server.types(run.id for run in self.open)
        for run in self.open:
            if word := run.look(types.get(run.id)):
                is_taken = self._server.say(word, run.id)
                run.said.append(Said(word, is_taken, up_seconds()))
                self.said[f"{word}{'' if is_taken else ' (refused)'}"] += 1


def up_seconds() -> float:
    """Of this machine, by which containers tell the time as well."""
    return float(Path("/proc/uptime").read_text().split()[0])
