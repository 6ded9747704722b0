"""What a person says of a run that runs, on a real server and engine: it is done, and stands."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.runs import left_on_engine, shell, until
from tests.weather import ENDLESS, FINISHED, STARTED, Weather

pytestmark = [pytest.mark.docker, pytest.mark.server]

# However these end, another attempt would follow.
RETRIED = {"retry": {"infrastructure": 2, "exitCodes": {"1": 2, "137": 2, "143": 2}}}
SAID = ["COMPLETED", "FAILED", "CANCELLED"]
RUNS = [*SAID, "deleted", "suspended and resumed", "suspended and cancelled"]


@pytest.fixture(scope="module")
def runs(weather: Weather) -> Iterator[dict[str, str]]:
    """The ids of runs whose containers all run, one for each thing to be said."""
    runs = {said: weather.submit(shell(ENDLESS, **RETRIED)) for said in RUNS}
    for run_id in runs.values():
        until(lambda: "line 1\n" in weather.output(run_id), what="the first line")  # noqa: B023
    yield runs
    # Of a test that failed, or was not chosen, the container still runs, or is paused for good.
    for run_id in runs.values():
        with suppress(OSError):
            weather.let_end(run_id)
        for container in left_on_engine(run_id):
            if docker("inspect", "--format", "{{.State.Status}}", container) == "paused":
                docker("rm", "--force", container)
        until(lambda: left_on_engine(run_id) == [], what="nothing left")  # noqa: B023


def say(weather: Weather, run_id: str, kind: str, **state: object) -> dict[str, Any]:
    """Set a state, as the UI does; the answer."""
    answer = weather.stack.api(
        "POST", f"/flow_runs/{run_id}/set_state", state={"type": kind, **state}, force=True
    )
    answer.raise_for_status()
    return dict(answer.json())


def suspend(weather: Weather, run_id: str) -> None:
    say(weather, run_id, "PAUSED", name="Suspended", state_details={"pause_reschedule": True})


def states(weather: Weather, run_id: str) -> list[str]:
    answer = weather.stack.api("GET", f"/flow_run_states/?flow_run_id={run_id}")
    return [str(each["name"]) for each in answer.json()]


def docker_state(run_id: str) -> str:
    """The status of the run's one container."""
    (container,) = left_on_engine(run_id)
    return docker("inspect", "--format", "{{.State.Status}}", container)


def docker(*words: str) -> str:
    """What the command says; empty where the container is gone."""
    return subprocess.run(
        ["docker", *words], capture_output=True, text=True, check=False
    ).stdout.strip()


@pytest.mark.parametrize("said", SAID)
def test_a_final_state_that_a_person_sets_stops_the_container_and_stands(
    weather: Weather, runs: dict[str, str], said: str
) -> None:
    run_id = runs[said]
    say(weather, run_id, said, message="I say so")
    until(lambda: left_on_engine(run_id) == [], what="no container")
    weather.assert_told_once(run_id)
    until(lambda: not is_carried(weather, run_id), what="its end")
    assert weather.stack.flow_run(run_id)["state"]["message"] == "I say so"
    assert states(weather, run_id).count("Running") == 1
    facts = weather.run_json(run_id)
    assert (facts["outcome"], facts["attempt"]) == ("canceled", 1)
    assert weather.output(run_id).startswith("line 1\n")


def is_carried(weather: Weather, run_id: str) -> bool:
    """Whether its worker has not said that the run ends there."""
    return not any("The run ends here" in each["message"] for each in weather.stack.logs(run_id))


def test_a_run_that_a_person_deletes_loses_its_container_and_is_told_as_finished(
    weather: Weather, runs: dict[str, str]
) -> None:
    run_id = runs["deleted"]
    weather.stack.api("DELETE", f"/flow_runs/{run_id}").raise_for_status()
    until(lambda: left_on_engine(run_id) == [], what="no container")
    weather.assert_told_once(run_id)
    wanted = {"flow_run_id": {"any_": [run_id]}, "key": {"any_": ["container-run"]}}
    assert weather.stack.api("POST", "/artifacts/filter", artifacts=wanted).json() == []


def test_a_suspended_run_has_its_container_paused_and_goes_on_when_it_is_resumed(
    weather: Weather, runs: dict[str, str]
) -> None:
    run_id = runs["suspended and resumed"]
    suspend(weather, run_id)
    until(lambda: docker_state(run_id) == "paused", what="a paused container")
    assert weather.stack.flow_run(run_id)["state_name"] == "Suspended"
    weather.sweep()
    assert docker_state(run_id) == "paused"
    weather.stack.api("POST", f"/flow_runs/{run_id}/resume").raise_for_status()
    until(lambda: "Adopting" in weather.journal(run_id), what="the adoption")
    until(lambda: docker_state(run_id) == "running", what="a container that goes on")
    weather.let_end(run_id)
    assert weather.end(run_id)["state_type"] == "COMPLETED"
    weather.assert_counted(run_id)
    weather.assert_told_once(run_id)


def test_a_suspended_run_that_is_cancelled_loses_its_container(
    weather: Weather, runs: dict[str, str]
) -> None:
    run_id = runs["suspended and cancelled"]
    suspend(weather, run_id)
    until(lambda: docker_state(run_id) == "paused", what="a paused container")
    until(lambda: (STARTED, 1) in weather.events(run_id), what="the first event")
    assert (FINISHED, 1) not in weather.events(run_id)
    weather.cancel(run_id)
    until(lambda: left_on_engine(run_id) == [], what="no container")
    assert weather.end(run_id)["state_type"] == "CANCELLED"
    weather.assert_told_once(run_id)
    until(lambda: "Published" in weather.journal(run_id), what="its report")
    assert weather.run_json(run_id)["outcome"] == "canceled"
