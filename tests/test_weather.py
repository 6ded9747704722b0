"""Bad weather for a container, on a real server with a process worker and a real engine.

After each storm: the right outcome, one `started` and one `finished` for each attempt, `run.json`
where the execute stage was reached, and nothing left on the engine.
"""

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scripts.stack import Stack, free_port
from tests.cutting_proxy import CuttingProxy
from tests.holding_proxy import HoldingProxy, to_engine, to_port
from tests.hosts import disk
from tests.own_engine import OwnEngine
from tests.runs import BUSYBOX, payload, shell
from tests.weather import Weather

pytestmark = [pytest.mark.docker, pytest.mark.server]

COUNT = "for i in $(seq 1 60); do echo line $i; sleep 0.2; done"
# All of these go on at once, and each test waits for its own.
STORMS = {
    "a signal": shell("kill -SEGV $$"),
    "a lack of memory": shell("tail /dev/zero; sleep 0.3; exit 9", resources={"memory": "16m"}),
    "SIGTERM ignored": shell(
        "trap '' TERM; while true; do sleep 0.1; done", timeoutSeconds=1, stopGraceSeconds=1
    ),
    "ten milliseconds": payload("true"),
    "a closed stdout": shell("exec >&- 2>&-; sleep 1; exit 4"),
    "cut connections": shell(COUNT),
    "a full disk": shell("dd if=/dev/zero of=$ARTIFACT_DIR/all bs=64k; echo after; exit 5"),
}


# Requests to the engine during which a run is cancelled.
HELD = [b"/create?", b"/start "]


@dataclass
class Sky:
    """A stack with the storms that were submitted to it."""

    weather: Weather
    disk: Path
    runs: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sky]:
    folder = tmp_path_factory.mktemp("sky")
    with ExitStack() as stack:
        small = stack.enter_context(disk(folder, "2m"))
        proxy = stack.enter_context(CuttingProxy(5))
        held = {name: stack.enter_context(HoldingProxy(to_engine, name)) for name in HELD}
        pieces = stack.enter_context(Stack(folder / "stack", free_port()))
        pieces.start()
        sky = Sky(Weather(pieces), small / "jobs")
        surroundings = {
            "cut connections": {"DOCKER_HOST": proxy.url},
            "a full disk": {"MOONMIND_WORKDIR": str(sky.disk)},
        }
        for name, task in STORMS.items():
            sky.runs[name] = sky.weather.submit(task, surroundings.get(name))
        for step, holding in held.items():
            url = f"tcp://127.0.0.1:{holding.port}"
            sky.runs[str(step)] = sky.weather.submit(payload("sleep", "60"), {"DOCKER_HOST": url})
        for step, holding in held.items():
            assert holding.held.wait(60)
            sky.weather.cancel(sky.runs[str(step)])
        yield sky


@pytest.mark.parametrize(
    ("storm", "state", "facts"),
    [
        ("a signal", "Failed", {"outcome": "failed", "exitCode": 139, "signal": 11}),
        ("a lack of memory", "OutOfMemory", {"outcome": "out-of-memory", "oomKilled": True}),
        (
            "SIGTERM ignored",
            "TimedOut",
            {"outcome": "timed-out", "exitCode": 137, "stoppedBy": "deadline", "timedOut": True},
        ),
        ("ten milliseconds", "Completed", {"outcome": "succeeded", "exitCode": 0}),
        ("a closed stdout", "Failed", {"outcome": "failed", "exitCode": 4}),
        ("cut connections", "Completed", {"outcome": "succeeded", "exitCode": 0}),
        ("a full disk", "Failed", {"outcome": "failed", "exitCode": 5}),
    ],
)
def test_a_storm_ends_with_the_truth_told_once(
    sky: Sky, storm: str, state: str, facts: dict[str, Any]
) -> None:
    run_id = sky.runs[storm]
    flow_run = sky.weather.end(run_id)
    assert flow_run["state_name"] == state, flow_run["state"]["message"]
    root = sky.disk if storm == "a full disk" else sky.weather.stack.jobs
    told = sky.weather.run_json(run_id, root)
    assert told.items() >= facts.items()
    sky.weather.assert_told_once(run_id)
    assert told["logs"]["complete"] is (storm != "a full disk")
    if storm == "cut connections":
        assert told["logs"]["reconnects"] > 0
        expected = [f"line {number}" for number in range(1, 61)]
        assert sky.weather.output(run_id).splitlines() == expected


def test_a_name_that_a_foreign_container_has_is_an_infrastructure_failure_and_tried_again(
    sky: Sky,
) -> None:
    run_id = sky.weather.submit(payload("true"), seconds=3)
    name = f"mm-task-{run_id}-1"
    foreign = _docker("run", "--detach", "--name", name, BUSYBOX, "sleep", "300")
    try:
        assert sky.weather.end(run_id)["state_type"] == "COMPLETED"
        sky.weather.assert_told_once(run_id, attempts=2)
        assert sky.weather.run_json(run_id)["attempt"] == 2
        assert "already in use" in _first_attempt(sky.weather, run_id)["error"]
        assert _docker("inspect", "--format", "{{.State.Running}}", foreign) == "true"
    finally:
        _docker("rm", "--force", foreign)


@pytest.fixture(scope="module")
def own_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    with OwnEngine(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_an_engine_that_restarts_takes_an_attempt_along_and_another_follows(
    sky: Sky, own_engine: OwnEngine, number: signal.Signals
) -> None:
    script = "echo up; if [ -e /cache/second ]; then exit 0; fi; touch /cache/second; sleep 300"
    cache = {"name": f"cache-{number}", "target": "/cache"}
    task = shell(script, cacheVolumes=[cache])
    run_id = sky.weather.submit_and_see(task, "up\n", {"DOCKER_HOST": own_engine.url})
    own_engine.end(number)
    own_engine.start()
    flow_run = sky.weather.end(run_id)
    assert flow_run["state_type"] == "COMPLETED", flow_run["state"]["message"]
    sky.weather.assert_told_once(run_id, attempts=2, host=own_engine.url)
    first = _first_attempt(sky.weather, run_id)
    assert (first["outcome"], first["stoppedBy"]) == ("infrastructure", "engine")
    assert first["exitCode"] == 143
    assert first["logs"]["complete"] is True


def test_a_run_that_is_cancelled_before_it_starts_ran_nothing(sky: Sky) -> None:
    run_id = sky.weather.submit(payload("true"), seconds=3600)
    sky.weather.cancel(run_id)
    assert sky.weather.end(run_id)["state_type"] == "CANCELLED"
    assert sky.weather.events(run_id) == {}


def test_a_run_that_is_cancelled_while_it_fetches_its_repository_ran_nothing(sky: Sky) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        task = payload("true") | {"repository": f"git://127.0.0.1:{silent.getsockname()[1]}/a"}
        run_id = sky.weather.submit(task)
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            sky.weather.cancel(run_id)
            assert sky.weather.end(run_id)["state_type"] == "CANCELLED"
    assert sky.weather.events(run_id) == {}


@pytest.mark.parametrize("step", HELD, ids=["created", "started"])
def test_a_run_that_is_cancelled_while_its_container_is_made_leaves_none(
    sky: Sky, step: bytes
) -> None:
    run_id = sky.runs[str(step)]
    assert sky.weather.end(run_id)["state_type"] == "CANCELLED"
    sky.weather.assert_told_once(run_id)
    facts = sky.weather.run_json(run_id)
    assert (facts["outcome"], facts["exitCode"]) == ("canceled", None)
    assert facts["error"] == "canceled before its container ran"


def test_a_run_that_is_cancelled_while_it_publishes_still_delivers_its_outcome(sky: Sky) -> None:
    with HoldingProxy(to_port(sky.weather.stack.port), b"POST /api/artifacts/") as proxy:
        url = f"http://127.0.0.1:{proxy.port}/api"
        run_id = sky.weather.submit(shell("echo done; exit 3"), {"PREFECT_API_URL": url})
        assert proxy.held.wait(60)
        sky.weather.cancel(run_id)
        assert sky.weather.end(run_id)["state_type"] == "CANCELLED"
    sky.weather.assert_told_once(run_id)
    facts = sky.weather.run_json(run_id)
    assert (facts["outcome"], facts["exitCode"]) == ("failed", 3)
    assert sky.weather.output(run_id) == "done\n"


def _first_attempt(weather: Weather, run_id: str) -> Any:
    return weather.run_json(run_id, folder="attempts/1")


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()
