"""A worker whose Docker Engine is out of reach for a while; its containers run on meanwhile."""

import subprocess
from collections.abc import Iterator

import pytest

from flows.outcome import UNHEARD
from flows.report.names import PROGRESS_KEY
from scripts.stack import Stack
from tests.gateway import Gateway
from tests.runs import left_on_engine, shell, until
from tests.weather import ENDLESS, Weather

pytestmark = [pytest.mark.docker, pytest.mark.server, pytest.mark.thorough]
POOL = "cut-off"
AWAY = "The engine is out of reach"


class Remote:
    """A pool whose worker reaches its engine through a proxy."""

    def __init__(self, weather: Weather, engine: Gateway) -> None:
        self.weather = weather
        self.engine = engine

    def said(self, run_id: str, words: str) -> int:
        """How often the run's journal has the words."""
        return self.weather.journal(run_id).count(words)

    def begin(self) -> str:
        """A task that counts lines until it is let to end."""
        return self.weather.submit_and_see(shell(ENDLESS), "line 3")

    def shown(self, run_id: str) -> str:
        """What the run's progress says; empty where it is not shown."""
        wanted = {"key": {"any_": [PROGRESS_KEY]}, "flow_run_id": {"any_": [run_id]}}
        found = self.weather.stack.api("POST", "/artifacts/filter", artifacts=wanted).json()
        return str(found[0]["description"]) if found else ""

    def lose(self, run_id: str) -> None:
        """The engine is out of reach, and the run knows."""
        self.engine.refuse()
        until(lambda: self.said(run_id, AWAY), what="a word on the absence")


@pytest.fixture(scope="module")
def remote(stack: Stack) -> Iterator[Remote]:
    with Gateway() as engine:
        settings = {"DOCKER_HOST": engine.url, "PREFECT_WORKER_QUERY_SECONDS": "2"}
        weather = Weather.over_pool(stack, POOL, "container-task", settings)
        yield Remote(weather, engine)
        engine.clear()
        stack.stop(POOL)


def test_a_run_whose_engine_is_out_of_reach_says_so_once_and_goes_on_with_its_container(
    remote: Remote,
) -> None:
    run_id = remote.begin()
    remote.lose(run_id)
    until(lambda: remote.shown(run_id).startswith("Waiting for the engine"), what="the progress")
    remote.weather.let_end(run_id)
    until(lambda: not _is_running(run_id), what="the container's end")
    remote.engine.clear()
    assert remote.weather.end(run_id)["state_type"] == "COMPLETED"
    assert (remote.said(run_id, AWAY), remote.said(run_id, "The engine answers again")) == (1, 1)
    remote.weather.assert_counted(run_id)
    remote.weather.assert_told_once(run_id)


def test_a_run_that_is_cancelled_while_its_engine_is_out_of_reach_is_cancelled_and_stopped_later(
    remote: Remote,
) -> None:
    run_id = remote.begin()
    remote.lose(run_id)
    remote.weather.cancel(run_id)
    ended = remote.weather.end(run_id)
    assert (ended["state_type"], ended["state"]["message"]) == ("CANCELLED", UNHEARD)
    assert _is_running(run_id), "nobody could stop it"
    remote.engine.clear()
    until(lambda: left_on_engine(run_id) == [], 120, what="the sweep")
    remote.weather.assert_told_once(run_id)
    until(lambda: remote.said(run_id, "Published"), what="its report")
    facts = remote.weather.run_json(run_id)
    assert (facts["outcome"], facts["exitCode"]) == ("canceled", 143)
    assert remote.weather.end(run_id)["state"]["message"] == UNHEARD


def _is_running(run_id: str) -> bool:
    command = ["docker", "ps", "--quiet", "--filter", f"label=moonmind.job_id={run_id}"]
    return bool(subprocess.run(command, capture_output=True, check=True).stdout.strip())
