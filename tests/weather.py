"""A server and workers that tests may kill, and the questions asked after each storm."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.stack import Stack, StackError
from tests.runs import left_on_engine

STARTED = "moonmind.task.container.started"
FINISHED = "moonmind.task.container.finished"


def wait_until(what: str, is_so: Callable[[], Any], seconds: float = 60) -> Any:
    """Ask until the answer is true, and return it; fail with `what` when it never is."""
    deadline = time.monotonic() + seconds
    while not (answer := is_so()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)
    return answer


class Weather:
    """One stack, and what can be done to it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def folder(self, run_id: str) -> Path:
        return self.stack.jobs / run_id

    def output(self, run_id: str) -> str:
        path = self.folder(run_id) / "artifacts/container/logs/runner.log"
        return path.read_text() if path.exists() else ""

    def run_json(self, run_id: str) -> Any:
        path = self.folder(run_id) / "artifacts/container/metadata/run.json"
        return json.loads(path.read_text())

    def submit_and_see(self, payload: object, line: str) -> str:
        """Submit, and return once the container has printed `line`."""
        run_id = self.stack.submit(payload)
        wait_until(f"{line!r} in the output", lambda: line in self.output(run_id))
        return run_id

    def events(self, run_id: str) -> Counter[tuple[str, int]]:
        """How often each event was stored for each attempt."""
        answer = self.stack.api(
            "POST",
            "/events/filter",
            filter={"resource": {"id": [f"moonmind.task.{run_id}"]}, "order": "ASC"},
            limit=50,
        )
        answer.raise_for_status()
        return Counter(
            (event["event"], event["payload"]["attempt"]) for event in answer.json()["events"]
        )

    def kill_flow(self, run_id: str) -> None:
        """SIGKILL to the process that runs the flow."""
        for pid in self.flow_processes(run_id):
            os.kill(pid, signal.SIGKILL)

    def flow_processes(self, run_id: str) -> list[int]:
        """Processes with the flow run's id in their environment, the worker left out."""
        needle = f"PREFECT__FLOW_RUN_ID={run_id}".encode()
        bare = f"PREFECT__FLOW_RUN_ID={run_id.replace('-', '')}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if needle in environment or bare in environment:
                found.append(int(folder.name))
        return found

    def kill_worker(self) -> None:
        """SIGKILL to the worker alone; its runs' processes live on."""
        process = self.stack.process("worker")
        process.kill()
        process.wait()
        self.stack.forget("worker")

    def end(self, run_id: str, seconds: float = 120) -> dict[str, Any]:
        """Wait until the run is over; a crash that another process takes up is not its end."""

        def over() -> dict[str, Any] | None:
            run = self.stack.flow_run(run_id)
            if run["state_type"] in ("COMPLETED", "FAILED", "CANCELLED"):
                return run
            crashed = run["state_type"] == "CRASHED"
            return run if crashed and (FINISHED, 1) in self.events(run_id) else None

        return dict(wait_until("the end of the run", over, seconds))

    def sweep(self) -> None:
        """Run the reaper now instead of at its next minute."""
        run_id = self.stack.submit_to("reap-orphans/docker")
        assert self.stack.await_final(run_id)["state_type"] == "COMPLETED"

    def assert_told_once(self, run_id: str, attempts: int = 1) -> None:
        """One `started` and one `finished` for each attempt, and nothing left on the engine."""
        expected = {
            (event, number): 1 for event in (STARTED, FINISHED) for number in range(1, attempts + 1)
        }
        try:
            wait_until("both events", lambda: self.events(run_id) == expected, 15)
        except AssertionError:
            assert self.events(run_id) == expected
        wait_until("nothing left", lambda: left_on_engine(run_id) == [], 15)


__all__ = ["StackError", "Weather", "wait_until"]
