"""Bad weather around a run, on a real server with our worker and a real engine.

After each storm: the right outcome, one `started` and one `finished` for each attempt, `run.json`
where the execute stage was reached, and nothing left on the engine.
"""

import math
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from scripts.stack import DEPLOYMENT, POOL, Stack
from tests.gateway import Gateway
from tests.runs import BUSYBOX, payload, shell, until
from tests.weather import Weather

pytestmark = [pytest.mark.docker, pytest.mark.server, pytest.mark.thorough]


@dataclass(frozen=True)
class Held:
    """A pool whose worker reaches its engine and its server through proxies; the server's event
    stream never comes through, so all that it learns it has to ask for."""

    weather: Weather
    engine: Gateway
    server: Gateway


@pytest.fixture(scope="module")
def held(stack: Stack) -> Iterator[Held]:
    with (
        Gateway() as engine,
        Gateway(stack.address) as server,
        server.holding(b"GET /api/events/out", times=math.inf),
    ):
        settings = {
            "DOCKER_HOST": engine.url,
            "PREFECT_API_URL": f"{server.http}/api",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
        }
        weather = Weather.over_pool(stack, "held", "container-task", settings)
        yield Held(weather, engine, server)
        stack.stop("held")


def test_a_name_that_a_foreign_container_has_is_an_infrastructure_failure_and_tried_again(
    weather: Weather,
) -> None:
    run_id = weather.submit(payload("true"), seconds=3)
    name = f"mm-task-{run_id}-1"
    foreign = _docker("run", "--detach", "--name", name, BUSYBOX, "sleep", "300")
    try:
        assert weather.end(run_id)["state_type"] == "COMPLETED"
        weather.assert_told_once(run_id, attempts=2)
        assert weather.run_json(run_id)["attempt"] == 2
        assert "already in use" in _first_attempt(weather, run_id)["error"]
        assert _docker("inspect", "--format", "{{.State.Running}}", foreign) == "true"
    finally:
        _docker("rm", "--force", foreign)


def test_a_run_that_is_cancelled_before_it_starts_ran_nothing(weather: Weather) -> None:
    run_id = weather.submit(payload("true"), seconds=3600)
    weather.cancel(run_id)
    assert weather.end(run_id)["state_type"] == "CANCELLED"
    assert weather.events(run_id) == {}


def test_a_run_that_is_cancelled_while_it_fetches_its_repository_ran_nothing(
    weather: Weather,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        task = payload("true") | {"repository": f"git://127.0.0.1:{silent.getsockname()[1]}/a"}
        run_id = weather.submit(task)
        silent.settimeout(120)
        connection, _ = silent.accept()
        with connection:
            weather.cancel(run_id)
            assert weather.end(run_id)["state_type"] == "CANCELLED"
    assert weather.events(run_id) == {}


@pytest.mark.parametrize("step", [b"/create?", b"/start "], ids=["created", "started"])
def test_a_run_that_is_cancelled_while_its_container_is_made_leaves_none(
    held: Held, step: bytes
) -> None:
    with held.engine.holding(step) as asked:
        run_id = held.weather.submit(payload("sleep", "60"))
        assert asked.wait(120)
        held.weather.cancel(run_id)
        assert held.weather.end(run_id)["state_type"] == "CANCELLED"
    held.weather.assert_told_once(run_id)
    facts = held.weather.run_json(run_id)
    assert (facts["outcome"], facts["exitCode"]) == ("canceled", None)
    assert facts["error"] == "canceled before its container ran"


def test_a_run_that_is_cancelled_while_it_publishes_still_delivers_its_outcome(
    held: Held,
) -> None:
    with held.server.holding(b"POST /api/artifacts/") as publishes:
        run_id = held.weather.submit(shell("echo done; exit 3"))
        assert publishes.wait(120)
        held.weather.cancel(run_id)
        assert held.weather.end(run_id)["state_type"] == "CANCELLED"
    held.weather.assert_told_once(run_id)
    facts = held.weather.run_json(run_id)
    assert (facts["outcome"], facts["exitCode"]) == ("failed", 3)
    assert held.weather.output(run_id) == "done\n"


def _first_attempt(weather: Weather, run_id: str) -> Any:
    return weather.run_json(run_id, folder="attempts/1")


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_no_backlog_of_tasks_holds_the_sweep_up(weather: Weather) -> None:
    queues = weather.stack.api("POST", f"/work_pools/{POOL}/queues/filter", limit=50).json()
    priorities = {queue["name"]: queue["priority"] for queue in queues}
    found = {
        name: weather.stack.api("GET", f"/deployments/name/{name}").json()["work_queue_name"]
        for name in (DEPLOYMENT, "reap-orphans/docker")
    }
    assert priorities[found["reap-orphans/docker"]] < priorities[found[DEPLOYMENT]]


def test_the_sweep_is_scheduled_by_nobodys_hand(weather: Weather) -> None:
    answer = weather.stack.api("GET", "/deployments/name/reap-orphans/docker")
    wanted = {"deployments": {"id": {"any_": [answer.json()["id"]]}}}
    until(
        lambda: weather.stack.api("POST", "/flow_runs/filter", **wanted).json(),
        what="a scheduled sweep",
    )
