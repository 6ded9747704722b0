"""What dies, and what follows, on a real server with workers of both kinds and a real engine."""

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.runs import left_on_engine, payload, shell, until
from tests.weather import ENDLESS, Weather

pytestmark = [pytest.mark.docker, pytest.mark.server, pytest.mark.thorough]

# All of these start at once; the tests follow one another, for what some of them kill is shared.
TASKS = {
    "killed": shell(ENDLESS),
    "killed too often": shell(ENDLESS, retry={"infrastructure": 0}),
    "without a worker": shell(ENDLESS),
    "without anybody": shell(ENDLESS),
}


@pytest.fixture(scope="module")
def runs(processes: Weather) -> dict[str, str]:
    """The ids of the runs of `TASKS`, each in a process of its own, whose containers all run."""
    runs = {name: processes.submit(task) for name, task in TASKS.items()}
    for run_id in runs.values():
        until(lambda: "line 1\n" in processes.output(run_id), what="the first line")  # noqa: B023
    return runs


@pytest.fixture
def cache() -> Iterator[str]:
    name = f"moonmind_test_{os.getpid()}"
    yield name
    subprocess.run(["docker", "volume", "rm", "--force", name], capture_output=True, check=True)


def test_a_cancelled_container_that_ignores_sigterm_is_killed(weather: Weather) -> None:
    script = "trap '' TERM; echo line 1; while true; do sleep 0.1; done"
    run_id = weather.submit_and_see(shell(script, stopGraceSeconds=2), "line 1\n")
    weather.stack.prefect("flow-run", "cancel", run_id)
    assert weather.end(run_id)["state_type"] == "CANCELLED"
    weather.assert_told_once(run_id)
    facts = weather.run_json(run_id)
    assert (facts["outcome"], facts["exitCode"], facts["stoppedBy"]) == ("canceled", 137, "cancel")


def test_a_run_that_is_cancelled_while_it_pulls_ends_cancelled(weather: Weather) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        image = f"127.0.0.1:{silent.getsockname()[1]}/never:1"
        run_id = weather.submit(payload("true", image=image, pull="always"))
        silent.settimeout(120)
        connection, _ = silent.accept()
        with connection:
            weather.cancel(run_id)
            assert weather.end(run_id)["state_type"] == "CANCELLED"
    weather.assert_told_once(run_id)
    assert weather.run_json(run_id)["outcome"] == "canceled"


def test_a_killed_flow_process_is_replaced_and_its_container_adopted(
    processes: Weather, runs: dict[str, str]
) -> None:
    run_id = runs["killed"]
    processes.kill_flow(run_id)
    until(lambda: "Adopting" in processes.journal(run_id), what="the adoption")
    processes.let_end(run_id)
    flow_run = processes.end(run_id)
    assert flow_run["state_type"] == "COMPLETED", flow_run["state"]["message"]
    assert flow_run["run_count"] == 2
    assert processes.run_json(run_id)["logs"]["complete"] is True
    processes.assert_counted(run_id)
    processes.assert_told_once(run_id)


def test_a_run_whose_process_dies_too_often_is_ended_with_its_log_and_run_json(
    processes: Weather, runs: dict[str, str]
) -> None:
    run_id = runs["killed too often"]
    processes.kill_flow(run_id)
    assert processes.end(run_id)["state_type"] == "CRASHED"
    processes.assert_told_once(run_id)
    facts = processes.run_json(run_id)
    assert (facts["outcome"], facts["failureClass"]) == ("infrastructure", "worker")
    assert processes.output(run_id).startswith("line 1\nline 2\n")


def test_a_container_removed_from_outside_is_an_infrastructure_failure_and_tried_again(
    weather: Weather, cache: str
) -> None:
    script = "if [ -e /cache/2 ]; then exit 0; fi; touch /cache/2; echo line 1; sleep 300"
    task = shell(script, cacheVolumes=[{"name": cache, "target": "/cache"}])
    run_id = weather.submit_and_see(task, "line 1\n")
    (container,) = left_on_engine(run_id)
    subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=True)
    flow_run = weather.end(run_id)
    assert flow_run["state_type"] == "COMPLETED", flow_run["state"]["message"]
    weather.assert_told_once(run_id, attempts=2)
    assert weather.run_json(run_id)["attempt"] == 2
    label = ["--format", '{{index .Labels "moonmind.cache_owner"}}', cache]
    owner = subprocess.check_output(["docker", "volume", "inspect", *label], text=True)
    assert owner == "deployment:container-task/docker\n"


def test_a_run_outlives_its_worker(processes: Weather, runs: dict[str, str]) -> None:
    run_id = runs["without a worker"]
    processes.kill_worker()
    processes.let_end(run_id)
    assert processes.end(run_id)["state_type"] == "COMPLETED"
    processes.assert_counted(run_id)
    processes.assert_told_once(run_id)


def test_after_the_death_of_flow_and_worker_a_fresh_worker_brings_the_run_to_its_end(
    processes: Weather, runs: dict[str, str]
) -> None:
    run_id = runs["without anybody"]
    processes.kill_flow(run_id)
    processes.stack.start_worker("processes", "process")
    processes.sweep()
    until(lambda: "Adopting" in processes.journal(run_id), what="the adoption")
    processes.let_end(run_id)
    assert processes.end(run_id)["state_type"] == "COMPLETED"
    processes.assert_counted(run_id)
    processes.assert_told_once(run_id)


def test_a_run_goes_on_while_the_server_is_down_for_twenty_seconds(weather: Weather) -> None:
    run_id = weather.submit_and_see(shell(ENDLESS), "line 3\n")
    weather.stack.stop("server")
    until(lambda: "line 105\n" in weather.output(run_id), what="output without a server")
    weather.stack.start_server()
    weather.let_end(run_id)
    assert weather.end(run_id)["state_type"] == "COMPLETED"
    weather.assert_counted(run_id)
    weather.assert_told_once(run_id)
