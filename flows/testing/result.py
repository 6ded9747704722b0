"""What one run came to, and what a test says of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from prefect.events import Event

from flows.outcome import OutcomeName
from flows.report.run_json import RunReport
from flows.spec import ContainerSpec, command_summary

_TELLING = ("attempt", "outcome", "exitCode")


@dataclass(frozen=True, repr=False)
class TaskResult:
    """One run of `container_task` that is over.

    `run` is its `run.json`, and `spec` what the payload came to, both None where the run ended
    before its execute stage. `events` are in order, the `artifacts` of the UI by their key.
    `output` is the container's; `files` has what the task left in `$ARTIFACT_DIR`, by the path
    below it, and `folder` is the whole job's. Of several attempts, these are the last one's.
    """

    outcome: OutcomeName
    state: State[Any]
    run: RunReport | None
    spec: ContainerSpec | None
    events: tuple[Event, ...]
    artifacts: Mapping[str, Any]
    output: str
    files: Mapping[str, Path]
    folder: Path

    @property
    def message(self) -> str:
        """The state's: how the run ended, and what to do next."""
        return self.state.message or ""

    def assert_outcome(self, outcome: str) -> None:
        """Fail unless the run ended so, one of `flows.outcome.OutcomeName`."""
        __tracebackhide__ = True
        if self.outcome != OutcomeName(outcome):
            raise AssertionError(f"the outcome is {self.outcome}, not {outcome}: {self.message}")

    def assert_event(self, name: str, **payload: object) -> Event:
        """The first event of this name, in full or its last word, whose payload has these values.

        Fails where there is none.
        """
        __tracebackhide__ = True
        for event in self.events:
            is_named = name in (event.event, event.event.rpartition(".")[2])
            if is_named and event.payload.items() >= payload.items():
                return event
        wanted = "".join(f", {key}={value!r}" for key, value in payload.items())
        raise AssertionError(
            f"no event {name}{wanted}; there were: {self._told_events() or 'none'}"
        )

    def assert_file(self, path: str, contains: str = "") -> Path:
        """The file at this path below `$ARTIFACT_DIR`; fails where it is not, or lacks a text."""
        __tracebackhide__ = True
        if path not in self.files:
            left = ", ".join(self.files) or "none"
            raise AssertionError(f"the task left no file {path}; there were: {left}")
        text = self.files[path].read_text(errors="replace") if contains else ""
        if contains not in text:
            begins = text[:500]
            raise AssertionError(f"{path} lacks {contains!r}; it begins {begins!r}")
        return self.files[path]

    def __repr__(self) -> str:
        return f"<TaskResult {self.outcome}: {self.message}>"

    def story(self) -> str:
        """All of it for a person, as pytest shows it under a test that failed."""
        ran = f"{command_summary(self.spec.command)} in {self.spec.image}" if self.spec else "none"
        lines = self.output.splitlines()
        shown = lines[-20:]
        facts = {
            "outcome": self.outcome,
            "message": self.message,
            "ran": ran,
            "events": self._told_events() or "none",
            "files": ", ".join(self.files) or "none",
            "folder": self.folder,
            "output": f"the last {len(shown)} of {len(lines)} lines" if lines else "none",
        }
        return "\n".join([*(f"{key + ':':9}{value}" for key, value in facts.items()), *shown])

    def _told_events(self) -> str:
        summaries = []
        for event in self.events:
            told = [f"{key}={event.payload[key]!r}" for key in _TELLING if key in event.payload]
            summaries.append(f"{event.event.rpartition('.')[2]} ({', '.join(told)})")
        return ", ".join(summaries)
