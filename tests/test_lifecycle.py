"""What dies, and what follows, on a real server with a process worker and a real engine."""

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from scripts.stack import Stack, free_port
from tests.runs import left_on_engine, payload, shell
from tests.weather import ENDLESS, Weather, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.server]

CACHE = f"moonmind_test_{os.getpid()}"
# All of these start at once; the tests follow one another, for what some of them kill is shared.
TASKS = {
    "obeys": shell(
        "trap 'echo got it; exit 9' TERM; echo line 1; while true; do sleep 0.1; done",
        stopGraceSeconds=2,
    ),
    "ignores SIGTERM": shell(
        "trap '' TERM; echo line 1; while true; do sleep 0.1; done", stopGraceSeconds=2
    ),
    "killed": shell(ENDLESS),
    "killed too often": shell(ENDLESS, retry={"infrastructure": 0}),
    "removed": shell(
        "if [ -e /cache/second ]; then exit 0; fi; touch /cache/second; echo line 1; sleep 300",
        cacheVolumes=[{"name": CACHE, "target": "/cache"}],
    ),
    "without a worker": shell(ENDLESS),
    "without anybody": shell(ENDLESS),
}


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weather]:
    with Stack(tmp_path_factory.mktemp("weather"), free_port()) as stack:
        stack.start()
        yield Weather(stack)
    subprocess.run(["docker", "volume", "rm", "--force", CACHE], capture_output=True, check=True)


@pytest.fixture(scope="module")
def runs(weather: Weather) -> dict[str, str]:
    """The ids of the runs of `TASKS`, whose containers all run."""
    runs = {name: weather.submit(task) for name, task in TASKS.items()}
    for run_id in runs.values():
        wait_until("the first line", lambda: "line 1\n" in weather.output(run_id))  # noqa: B023
    return runs


@pytest.mark.parametrize(("task", "exit_code"), [("obeys", 9), ("ignores SIGTERM", 137)])
def test_a_cancelled_run_stops_its_container_and_delivers_what_there_is(
    weather: Weather, runs: dict[str, str], task: str, exit_code: int
) -> None:
    run_id = runs[task]
    if task == "obeys":
        weather.stack.prefect("flow-run", "cancel", run_id)
    else:
        weather.cancel(run_id)
    assert weather.end(run_id)["state_type"] == "CANCELLED"
    weather.assert_told_once(run_id)
    facts = weather.run_json(run_id)
    assert (facts["outcome"], facts["exitCode"]) == ("canceled", exit_code)
    assert facts["stoppedBy"] == "cancel"
    assert ("got it" in weather.output(run_id)) is (task == "obeys")


def test_a_run_that_is_cancelled_while_it_pulls_ends_cancelled(weather: Weather) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        image = f"127.0.0.1:{silent.getsockname()[1]}/never:1"
        run_id = weather.submit(payload("true", image=image, pull="always"))
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            weather.cancel(run_id)
            assert weather.end(run_id)["state_type"] == "CANCELLED"
    weather.assert_told_once(run_id)
    assert weather.run_json(run_id)["outcome"] == "canceled"


def test_a_killed_flow_process_is_replaced_and_its_container_adopted(
    weather: Weather, runs: dict[str, str]
) -> None:
    run_id = runs["killed"]
    weather.kill_flow(run_id)
    wait_until("the adoption", lambda: "Adopting" in weather.journal(run_id))
    weather.let_end(run_id)
    flow_run = weather.end(run_id)
    assert flow_run["state_type"] == "COMPLETED", flow_run["state"]["message"]
    assert flow_run["run_count"] == 2
    assert weather.run_json(run_id)["logs"]["complete"] is True
    weather.assert_counted(run_id)
    weather.assert_told_once(run_id)


def test_a_run_whose_process_dies_too_often_is_ended_with_its_log_and_run_json(
    weather: Weather, runs: dict[str, str]
) -> None:
    run_id = runs["killed too often"]
    weather.kill_flow(run_id)
    assert weather.end(run_id)["state_type"] == "CRASHED"
    weather.assert_told_once(run_id)
    facts = weather.run_json(run_id)
    assert (facts["outcome"], facts["failureClass"]) == ("infrastructure", "worker")
    assert weather.output(run_id).startswith("line 1\nline 2\n")


def test_a_container_removed_from_outside_is_an_infrastructure_failure_and_tried_again(
    weather: Weather, runs: dict[str, str]
) -> None:
    run_id = runs["removed"]
    (container,) = left_on_engine(run_id)
    subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=True)
    flow_run = weather.end(run_id)
    assert flow_run["state_type"] == "COMPLETED", flow_run["state"]["message"]
    weather.assert_told_once(run_id, attempts=2)
    assert weather.run_json(run_id)["attempt"] == 2


def test_a_run_outlives_its_worker(weather: Weather, runs: dict[str, str]) -> None:
    run_id = runs["without a worker"]
    weather.kill_worker()
    weather.let_end(run_id)
    assert weather.end(run_id)["state_type"] == "COMPLETED"
    weather.assert_counted(run_id)
    weather.assert_told_once(run_id)


def test_after_the_death_of_flow_and_worker_a_fresh_worker_brings_the_run_to_its_end(
    weather: Weather, runs: dict[str, str]
) -> None:
    run_id = runs["without anybody"]
    weather.kill_flow(run_id)
    weather.stack.start_worker()
    weather.sweep()
    wait_until("the adoption", lambda: "Adopting" in weather.journal(run_id))
    weather.let_end(run_id)
    assert weather.end(run_id)["state_type"] == "COMPLETED"
    weather.assert_counted(run_id)
    weather.assert_told_once(run_id)


def test_a_run_goes_on_while_the_server_is_down_for_twenty_seconds(weather: Weather) -> None:
    run_id = weather.submit_and_see(shell(ENDLESS), "line 3\n")
    weather.stack.stop("server")
    wait_until("output without a server", lambda: "line 105\n" in weather.output(run_id))
    weather.stack.start_server()
    weather.let_end(run_id)
    assert weather.end(run_id)["state_type"] == "COMPLETED"
    weather.assert_counted(run_id)
    weather.assert_told_once(run_id)
