"""Bad weather around a run, on a real server with a process worker and a real engine.

After each storm: the right outcome, one `started` and one `finished` for each attempt, `run.json`
where the execute stage was reached, and nothing left on the engine.
"""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from scripts.stack import DEPLOYMENT, POOL, Stack, free_port
from tests.holding_proxy import HoldingProxy, to_engine, to_port
from tests.runs import BUSYBOX, payload, shell
from tests.weather import Weather, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.server]

# Requests to the engine during which a run is cancelled.
HELD = [b"/create?", b"/start "]


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weather]:
    with Stack(tmp_path_factory.mktemp("weather"), free_port()) as stack:
        stack.start()
        yield Weather(stack)


@pytest.fixture(scope="module")
def held(weather: Weather) -> Iterator[dict[bytes, str]]:
    """The ids of runs that were cancelled while the engine owed them the answer to a request."""
    with ExitStack() as stack:
        proxies = {name: stack.enter_context(HoldingProxy(to_engine, name)) for name in HELD}
        runs = {
            name: weather.submit(
                payload("sleep", "60"), {"DOCKER_HOST": f"tcp://127.0.0.1:{proxy.port}"}
            )
            for name, proxy in proxies.items()
        }
        for name, proxy in proxies.items():
            assert proxy.held.wait(60)
            weather.cancel(runs[name])
        yield runs


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
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            weather.cancel(run_id)
            assert weather.end(run_id)["state_type"] == "CANCELLED"
    assert weather.events(run_id) == {}


@pytest.mark.parametrize("step", HELD, ids=["created", "started"])
def test_a_run_that_is_cancelled_while_its_container_is_made_leaves_none(
    weather: Weather, held: dict[bytes, str], step: bytes
) -> None:
    run_id = held[step]
    assert weather.end(run_id)["state_type"] == "CANCELLED"
    weather.assert_told_once(run_id)
    facts = weather.run_json(run_id)
    assert (facts["outcome"], facts["exitCode"]) == ("canceled", None)
    assert facts["error"] == "canceled before its container ran"


def test_a_run_that_is_cancelled_while_it_publishes_still_delivers_its_outcome(
    weather: Weather,
) -> None:
    with HoldingProxy(to_port(weather.stack.port), b"POST /api/artifacts/") as proxy:
        url = f"http://127.0.0.1:{proxy.port}/api"
        run_id = weather.submit(shell("echo done; exit 3"), {"PREFECT_API_URL": url})
        assert proxy.held.wait(60)
        weather.cancel(run_id)
        assert weather.end(run_id)["state_type"] == "CANCELLED"
    weather.assert_told_once(run_id)
    facts = weather.run_json(run_id)
    assert (facts["outcome"], facts["exitCode"]) == ("failed", 3)
    assert weather.output(run_id) == "done\n"


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
    wait_until(
        "a scheduled sweep",
        lambda: weather.stack.api("POST", "/flow_runs/filter", **wanted).json(),
    )
