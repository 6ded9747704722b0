"""What dies, and what follows, on a real server with a process worker and a real engine."""

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from scripts.stack import Stack, free_port
from tests.runs import left_on_engine, payload, shell
from tests.weather import Weather, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.server]
COUNT = "for i in $(seq 1 {n}); do echo line $i; sleep 0.2; done"


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weather]:
    with Stack(tmp_path_factory.mktemp("weather"), free_port()) as stack:
        stack.start()
        yield Weather(stack)


def lines(count: int) -> list[str]:
    return [f"line {number}" for number in range(1, count + 1)]


def test_a_killed_flow_process_is_replaced_and_its_container_adopted(weather: Weather) -> None:
    run_id = weather.submit_and_see(shell(COUNT.format(n=60)), "line 10\n")
    weather.kill_flow(run_id)
    flow_run = weather.end(run_id)
    assert flow_run["state_type"] == "COMPLETED", flow_run["state"]["message"]
    assert flow_run["run_count"] == 2
    assert weather.output(run_id).splitlines() == lines(60), "no line lost, none doubled"
    weather.assert_told_once(run_id)


def test_a_run_outlives_its_worker(weather: Weather) -> None:
    run_id = weather.submit_and_see(shell(COUNT.format(n=30)), "line 3\n")
    weather.kill_worker()
    try:
        flow_run = weather.end(run_id)
    finally:
        weather.stack.start_worker()
    assert flow_run["state_type"] == "COMPLETED"
    assert weather.output(run_id).splitlines() == lines(30)
    weather.assert_told_once(run_id)


def test_after_the_death_of_flow_and_worker_a_fresh_worker_brings_the_run_to_its_end(
    weather: Weather,
) -> None:
    run_id = weather.submit_and_see(shell(COUNT.format(n=150)), "line 3\n")
    weather.kill_worker()
    weather.kill_flow(run_id)
    weather.stack.start_worker()
    # The sweep leaves a run alone that may only just be starting.
    wait_until("the run is taken up", lambda: _swept(weather, run_id), 90)
    flow_run = weather.end(run_id)
    assert flow_run["state_type"] == "COMPLETED"
    assert weather.output(run_id).splitlines() == lines(150)
    weather.assert_told_once(run_id)


def _swept(weather: Weather, run_id: str) -> bool:
    weather.sweep()
    return bool(weather.stack.flow_run(run_id)["run_count"] > 1)


def test_a_run_whose_process_dies_too_often_is_ended_with_its_log_and_run_json(
    weather: Weather,
) -> None:
    task = shell("echo alive; sleep 300", retry={"infrastructure": 0})
    run_id = weather.submit_and_see(task, "alive\n")
    weather.kill_flow(run_id)
    flow_run = weather.end(run_id)
    assert flow_run["state_type"] == "CRASHED"
    weather.assert_told_once(run_id)
    facts = weather.run_json(run_id)
    assert (facts["outcome"], facts["failureClass"]) == ("infrastructure", "worker")
    assert weather.output(run_id) == "alive\n"


@pytest.mark.parametrize(
    ("script", "exit_code"),
    [
        ("trap 'echo got it; exit 9' TERM; echo up; while true; do sleep 0.1; done", 9),
        ("trap '' TERM; echo up; while true; do sleep 0.1; done", 137),
    ],
    ids=["obeys", "ignores SIGTERM"],
)
def test_a_cancelled_run_stops_its_container_and_delivers_what_there_is(
    weather: Weather, script: str, exit_code: int
) -> None:
    run_id = weather.submit_and_see(shell(script, stopGraceSeconds=2), "up\n")
    weather.stack.prefect("flow-run", "cancel", run_id)
    assert weather.end(run_id)["state_type"] == "CANCELLED"
    weather.assert_told_once(run_id)
    facts = weather.run_json(run_id)
    assert (facts["outcome"], facts["exitCode"]) == ("canceled", exit_code)
    assert facts["stoppedBy"] == "cancel"
    assert ("got it" in weather.output(run_id)) is (exit_code == 9)


def test_a_run_that_is_cancelled_while_it_pulls_ends_cancelled(weather: Weather) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        image = f"127.0.0.1:{silent.getsockname()[1]}/never:1"
        run_id = weather.stack.submit(payload("true", image=image, pull="always"))
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            weather.stack.prefect("flow-run", "cancel", run_id)
            assert weather.end(run_id)["state_type"] == "CANCELLED"
    weather.assert_told_once(run_id)
    assert weather.run_json(run_id)["outcome"] == "canceled"


def test_a_run_goes_on_while_the_server_is_away(weather: Weather) -> None:
    run_id = weather.submit_and_see(shell(COUNT.format(n=60)), "line 3\n")
    server = weather.stack.process("server")
    os.killpg(server.pid, signal.SIGSTOP)
    try:
        wait_until("output without a server", lambda: "line 40\n" in weather.output(run_id))
    finally:
        os.killpg(server.pid, signal.SIGCONT)
    assert weather.end(run_id)["state_type"] == "COMPLETED"
    assert weather.output(run_id).splitlines() == lines(60)
    weather.assert_told_once(run_id)


def test_a_container_removed_from_outside_is_an_infrastructure_failure_and_tried_again(
    weather: Weather,
) -> None:
    script = "echo up; if [ -e /cache/second ]; then exit 0; fi; touch /cache/second; sleep 300"
    cache = f"moonmind_test_{os.getpid()}"
    task = shell(script, cacheVolumes=[{"name": cache, "target": "/cache"}])
    try:
        run_id = weather.submit_and_see(task, "up\n")
        (container,) = left_on_engine(run_id)
        _docker("rm", "--force", container)
        flow_run = weather.end(run_id)
        assert flow_run["state_type"] == "COMPLETED", flow_run["state"]["message"]
        weather.assert_told_once(run_id, attempts=2)
        assert weather.run_json(run_id)["attempt"] == 2
    finally:
        _docker("volume", "rm", "--force", cache)


def _docker(*words: str) -> None:
    import subprocess

    subprocess.run(["docker", *words], capture_output=True, check=True)
