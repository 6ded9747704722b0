"""A server and workers that tests may kill, and the questions asked after each storm."""

import json
import os
import signal
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from scripts.stack import DEPLOYMENT, POOL, Stack
from tests.runs import left_on_engine, until

# Counts until its test lets it end.
ENDLESS = """
until [ -e $ARTIFACT_DIR/../enough ]; do i=$((i+1)); echo line $i; sleep 0.2; done; echo the end
"""
STARTED = "moonmind.task.container.started"
FINISHED = "moonmind.task.container.finished"


class Weather:
    """One stack, and what can be done to it; runs go to `pool`."""

    def __init__(self, stack: Stack, pool: str = POOL, jobs: Path | None = None) -> None:
        """`jobs` is the worker's `MOONMIND_WORKDIR`, where that is not the stack's."""
        self.stack = stack
        self._jobs = jobs or stack.jobs
        self._pool = pool
        self._deployment = DEPLOYMENT if pool == POOL else f"container-task/{pool}"

    @classmethod
    def over_pool(
        cls, stack: Stack, pool: str, kind: str, settings: Mapping[str, str] | None = None
    ) -> Self:
        """A pool of its own on the stack's server, with the deployment and a worker."""
        stack.create_pool(pool, kind)
        stack.deploy_to(pool)
        stack.start_worker(pool, kind, settings=settings)
        return cls(stack, pool)

    def folder(self, run_id: str) -> Path:
        return self._jobs / run_id

    def output(self, run_id: str) -> str:
        return self._log(run_id, "container/logs/runner.log")

    def journal(self, run_id: str) -> str:
        """What the stages did."""
        return self._log(run_id, "logs/execute.log")

    def _log(self, run_id: str, path: str) -> str:
        """It is in `.runs` as long as the container runs."""
        live = self._jobs / ".runs" / f"{run_id}.{Path(path).name}"
        for each in (live, self.folder(run_id) / "artifacts" / path):
            with suppress(FileNotFoundError):
                return each.read_text()
        return ""

    def run_json(self, run_id: str, root: Path | None = None, folder: str = "artifacts") -> Any:
        """Of the newest attempt, or of the one whose results are in `folder`."""
        path = (root or self._jobs) / run_id / folder / "container/metadata/run.json"
        return json.loads(path.read_text())

    def submit(self, payload: object, seconds: float = 0) -> str:
        """Submit, to start in `seconds`. Through the API: the command takes seconds to load."""
        due = datetime.now(UTC) + timedelta(seconds=seconds)
        answer = self.stack.api(
            "POST",
            f"/deployments/{self._deployment_id}/create_flow_run",
            parameters={"payload": payload},
            state={"type": "SCHEDULED", "state_details": {"scheduled_time": due.isoformat()}},
        )
        answer.raise_for_status()
        return str(answer.json()["id"])

    def cancel(self, run_id: str) -> None:
        """What `prefect flow-run cancel` does, without the seconds that it takes to load."""
        state = {"type": "CANCELLING", "message": "Cancelled by a test"}
        answer = self.stack.api("POST", f"/flow_runs/{run_id}/set_state", state=state)
        answer.raise_for_status()

    @cached_property
    def _deployment_id(self) -> str:
        answer = self.stack.api("GET", f"/deployments/name/{self._deployment}")
        answer.raise_for_status()
        return str(answer.json()["id"])

    def submit_and_see(self, payload: object, line: str) -> str:
        """Submit, and return once the container has printed `line`."""
        run_id = self.submit(payload)
        until(lambda: line in self.output(run_id), what=f"{line!r} in the output")
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

    def let_end(self, run_id: str) -> None:
        """What an `ENDLESS` task waits for."""
        (self.folder(run_id) / "artifacts/enough").touch()

    def assert_counted(self, run_id: str) -> None:
        """An `ENDLESS` task's output is there from its first to its last line, each once."""
        told = self.output(run_id).splitlines()
        assert told == [f"line {number}" for number in range(1, len(told))] + ["the end"]

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
        name = "worker" if self._pool == POOL else self._pool
        process = self.stack.process(name)
        process.kill()
        process.wait()
        self.stack.forget(name)

    def end(self, run_id: str, seconds: float = 300) -> dict[str, Any]:
        """Wait until the run is over; a crash that another process takes up is not its end."""

        def over() -> dict[str, Any] | None:
            run = self.stack.flow_run(run_id)
            if run["state_type"] in ("COMPLETED", "FAILED", "CANCELLED"):
                return run
            crashed = run["state_type"] == "CRASHED"
            return run if crashed and (FINISHED, 1) in self.events(run_id) else None

        return dict(until(over, seconds, what="the end of the run"))

    def sweep(self) -> None:
        """Run the reaper now instead of at its next minute."""
        answer = self.stack.api("GET", "/deployments/name/reap-orphans/docker")
        path = f"/deployments/{answer.json()['id']}/create_flow_run"

        def swept() -> bool:
            run_id = self.stack.api("POST", path, state={"type": "SCHEDULED"}).json()["id"]
            ended = self.stack.await_final(run_id)
            # One that meets the sweep of the minute is cancelled: there is one at a time.
            assert ended["state_type"] in ("COMPLETED", "CANCELLED"), ended["state"]
            return bool(ended["state_type"] == "COMPLETED")

        until(swept, what="a sweep")

    def assert_told_once(self, run_id: str, attempts: int = 1, host: str = "") -> None:
        """One `started` and one `finished` for each attempt, and nothing left on the engine."""
        expected = {
            (event, number): 1 for event in (STARTED, FINISHED) for number in range(1, attempts + 1)
        }
        try:
            until(lambda: self.events(run_id) == expected, what="both events")
        except AssertionError:
            events = self.events(run_id)
            assert events == expected, f"{events} in place of {expected}"
        until(lambda: left_on_engine(run_id, host) == [], what="nothing left")
