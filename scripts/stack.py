"""A Prefect server, the deployment and a worker as processes of this checkout, on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import httpx
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

ROOT = Path(__file__).resolve().parent.parent
POOL = "container-tasks"
KIND = "container-task"
DEPLOYMENT = "container-task/docker"
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
# On a busy machine each takes its time; one that ends is told at once.
_START_SECONDS = 240.0
_STOP_SECONDS = 30.0


class StackError(Exception):
    """A process did not come up; the message names its log."""


class Stack:
    """One server and one worker with their files below `home`.

    Everything that it starts is in a process group of its own and ended by `stop`.
    """

    def __init__(
        self,
        home: Path,
        port: int,
        settings: Mapping[str, str] | None = None,
        python: Path = Path(sys.executable),
    ) -> None:
        self.home = home
        self._command = (str(python), "-m", "prefect")
        self.port = port
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            # Keys of the caller's shell would send the pieces to another server or profile.
            **{key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")},
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_API_URL": f"{self.address}/api",
            "PREFECT_UI_URL": self.address,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "MOONMIND_WORKDIR": str(home / "agent_jobs"),
            **(settings or {}),
        }

    @property
    def address(self) -> str:
        """Of the UI; the API is below it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def jobs(self) -> Path:
        """`MOONMIND_WORKDIR` of the worker."""
        return Path(self.environment["MOONMIND_WORKDIR"])

    def start(self) -> None:
        """Bring up the server, register pool and deployment, bring up the worker."""
        self.start_server()
        self.create_pool()
        # Both take seconds to load.
        with ThreadPoolExecutor() as threads:
            for done in (threads.submit(self.start_worker), threads.submit(self.deploy)):
                done.result()

    def start_server(self) -> None:
        """Start the server and wait until it answers."""
        words = ["server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self._start("server", words)
        self._await("server", self.answers)

    def start_worker(
        self,
        pool: str = POOL,
        kind: str = KIND,
        limit: int | None = None,
        settings: Mapping[str, str] | None = None,
        process: str | None = None,
        is_awaited: bool = True,
    ) -> None:
        """Start a worker that runs at most `limit` at a time; wait until the server has heard
        from it, where it is awaited. Its process is named `worker`, or by a pool that is not the
        usual one."""
        seen = self._workers(pool) if is_awaited else []
        known = {worker["name"]: worker["last_heartbeat_time"] for worker in seen}
        bound = ["--limit", str(limit)] if limit else []
        words = ["worker", "start", "--pool", pool, "--type", kind, *bound]
        name = process or ("worker" if pool == POOL else pool)
        # Ours is woken; one of another kind finds work by asking alone.
        asking = {} if kind == KIND else {"PREFECT_WORKER_QUERY_SECONDS": "1"}
        self._start(name, words, {**asking, **(settings or {})})
        if not is_awaited:
            return
        self._await(
            name,
            lambda: any(
                known.get(worker["name"]) != worker["last_heartbeat_time"]
                for worker in self._workers(pool)
            ),
        )

    def create_pool(self, pool: str = POOL, kind: str = KIND) -> None:
        """Create the work pool if it is not there; one of another type is replaced."""
        found = self.api("GET", f"/work_pools/{pool}")
        if found.status_code == HTTPStatus.OK and found.json()["type"] != kind:
            self.api("DELETE", f"/work_pools/{pool}").raise_for_status()
        template: dict[str, Any] = {}
        answer = self.api("POST", "/work_pools/", name=pool, type=kind, base_job_template=template)
        if answer.status_code not in (201, 409):
            answer.raise_for_status()

    def deploy(self) -> None:
        """Register what prefect.yaml says."""
        self.prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(ROOT / "prefect.yaml"))

    def deploy_to(self, pool: str) -> str:
        """Register a copy of `DEPLOYMENT` that runs on another pool; return its name."""
        ours = self.api("GET", f"/deployments/name/{DEPLOYMENT}").json()
        kept = ("flow_id", "entrypoint", "job_variables", "enforce_parameter_schema", "tags")
        self.register(name=pool, work_pool_name=pool, **{key: ours[key] for key in kept})
        return f"{DEPLOYMENT.partition('/')[0]}/{pool}"

    def register(self, **deployment: object) -> str:
        """Register a deployment by its fields of the API; return its id."""
        answer = self.api("POST", "/deployments/", **deployment)
        answer.raise_for_status()
        return str(answer.json()["id"])

    def submit(self, payload: object, *words: str) -> str:
        """Submit one payload with `prefect deployment run`; return the flow run's id."""
        text = self.prefect(
            "deployment", "run", DEPLOYMENT, "--param", f"payload={json.dumps(payload)}", *words
        )
        return flow_run_id(text)

    def submit_to(self, deployment: str, parameters: Mapping[str, object] | None = None) -> str:
        """Start a deployment through the API; return the flow run's id."""
        found = self.api("GET", f"/deployments/name/{deployment}")
        found.raise_for_status()
        path = f"/deployments/{found.json()['id']}/create_flow_run"
        answer = self.api("POST", path, parameters=parameters or {})
        answer.raise_for_status()
        return str(answer.json()["id"])

    def forget(self, name: str) -> None:
        """A process that somebody else has ended is no longer ours to stop."""
        del self._processes[name]

    def flow_run(self, run_id: str) -> dict[str, Any]:
        """The flow run as the API tells it."""
        answer = self.api("GET", f"/flow_runs/{run_id}")
        answer.raise_for_status()
        return dict(answer.json())

    def await_final(self, run_id: str, seconds: float = 300) -> dict[str, Any]:
        """Wait until the flow run is over; raise `StackError` when it takes too long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.flow_run(run_id)
            if found["state_type"] in FINAL:
                return found
            time.sleep(0.2)
        raise StackError(f"flow run {run_id} is still {found['state_name']} after {seconds} s")

    def logs(self, run_id: str, offset: int = 0) -> list[dict[str, Any]]:
        """Log records of the flow run from `offset` on, oldest first; 200 is the API's limit."""
        wanted = {"flow_run_id": {"any_": [run_id]}}
        answer = self.api(
            "POST", "/logs/filter", logs=wanted, sort="TIMESTAMP_ASC", offset=offset, limit=200
        )
        answer.raise_for_status()
        return list(answer.json())

    @retry(
        retry=retry_if_result(lambda answer: answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE),
        wait=wait_fixed(0.5),
        stop=stop_after_delay(30),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    def api(self, method: str, path: str, **body: object) -> httpx.Response:
        """One request to the API, again while its database is busy, as Prefect's client does."""
        url = f"{self.address}/api{path}"
        return httpx.request(method, url, json=body or None, timeout=60)

    def prefect(self, *words: str) -> str:
        """Run the prefect command against this server; raise `StackError` with what it said."""
        done = subprocess.run(
            [*self._command, *words],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StackError(f"prefect {words[0]} failed: {(done.stdout + done.stderr).strip()}")
        return done.stdout

    def answers(self) -> bool:
        """Whether the server does, and is the one of this `home`: another may have the port."""
        with suppress(httpx.HTTPError, ValueError, LookupError, TypeError):
            settings = self.api("GET", "/admin/settings").json()
            return bool(settings["home"] == self.environment["PREFECT_HOME"])
        return False

    def log(self, name: str) -> Path:
        """Where the process `name` writes."""
        return self.home / f"{name}.log"

    def is_running(self, name: str) -> bool:
        """Whether a process of this name was started here and not ended."""
        return name in self._processes

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """A process that this object started."""
        return self._processes[name]

    def stop(self, name: str | None = None) -> None:
        """End the named process, or all: the server last, for the others talk to it."""
        for each in [name] if name else sorted(self._processes, key="server".__eq__):
            process = self._processes.pop(each)
            end_group(process.pid, process.wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(
        self, name: str, words: list[str], settings: Mapping[str, str] | None = None
    ) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*self._command, *words],
                env=self.environment | dict(settings or {}),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_hear_interrupts,
            )

    def _await(self, name: str, is_up: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            up, ended = is_up(), self._processes[name].poll() is not None
            if up and not ended:
                return
            if ended or time.monotonic() > deadline:
                tail = self.log(name).read_text(errors="replace")[-2000:]
                raise StackError(f"the {name} did not start; {self.log(name)} ends:\n{tail}")
            time.sleep(0.1)

    def _workers(self, pool: str) -> list[dict[str, Any]]:
        answer = self.api("POST", f"/work_pools/{pool}/workers/filter", limit=50)
        return list(answer.json()) if answer.status_code == 200 else []


def _hear_interrupts() -> None:
    """Prefect's worker ends by an interrupt, which a shell's background jobs ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def flow_run_id(text: str) -> str:
    """The id that `prefect deployment run` printed."""
    for line in text.splitlines():
        _, found, run_id = line.partition("UUID: ")
        if found:
            return run_id.strip()
    raise StackError(f"prefect deployment run printed no flow run id: {text}")


def end_group(pid: int, wait: Callable[[float], object]) -> None:
    """SIGTERM to a process group that we started, SIGKILL when it does not end."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(pid, number)
        with suppress(subprocess.TimeoutExpired, TimeoutError):
            wait(_STOP_SECONDS)
            return


def free_port(preferred: int = 0) -> int:
    """`preferred` if nobody listens there, else one that the system chooses."""
    for port in (preferred, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise StackError("no free port on 127.0.0.1")
