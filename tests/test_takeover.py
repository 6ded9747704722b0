"""Hosts of one pool: each looks after its own runs, and takes over from one that is gone."""

import logging
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.settings import HostSettings
from flows.worker.standstill import stand_still_unless_heard
from flows.worker.takeover import Silence, TakeOver
from scripts.stack import Stack
from tests.gateway import ENGINE as DEFAULT
from tests.gateway import Gateway
from tests.own_engine import OwnEngine
from tests.runs import left_on_engine, shell, until
from tests.weather import ENDLESS, Weather

POOL = "two-hosts"
LOGGER = logging.getLogger(__name__)
NOON = datetime(2026, 2, 3, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def looks(*steps: tuple[float, int]) -> list[bool]:
    """What a patience of 300 s says at each step: seconds later, the last heartbeat's minute."""
    clock = Clock()
    silence, told = Silence(clock, gap_seconds=150), []
    for seconds, minute in steps:
        clock.now += seconds
        told.append(silence.seconds("worker", NOON + timedelta(minutes=minute)) >= 300)
    return told


def test_a_worker_is_silent_once_every_look_of_so_long_found_the_same_heartbeat() -> None:
    assert looks((0, 0), *[(60, 0)] * 4, (60, 0)) == [False] * 5 + [True]


def test_a_heartbeat_ends_the_silence() -> None:
    assert not any(looks((0, 0), *[(60, 0)] * 4, (60, 1), *[(60, 1)] * 4))


def test_an_observer_that_saw_nothing_for_a_while_begins_anew() -> None:
    assert not any(looks((0, 0), (60, 0), (600, 0), *[(60, 0)] * 4))


def test_a_worker_that_was_never_heard_of_is_silent_in_the_end() -> None:
    clock = Clock()
    silence = Silence(clock, gap_seconds=150)
    assert silence.seconds("gone", None) == 0
    clock.now = 61
    assert silence.seconds("gone", None) == 61


@pytest.fixture(scope="module")
def hosts(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Hosts"]:
    with OwnEngine(tmp_path_factory.mktemp("engine")) as engine:
        hosts = Hosts(stack, tmp_path_factory.mktemp("hosts"), engine)
        yield hosts
        for name in ("first", "second"):
            if stack.is_running(name):
                stack.stop(name)


class Hosts:
    """Two hosts of one pool, with folders and engines of their own."""

    def __init__(self, stack: Stack, folder: Path, engine: OwnEngine) -> None:
        self.stack = stack
        self.engine = engine
        self._folder = folder
        stack.create_pool(POOL, "container-task")
        stack.deploy_to(POOL)

    def start(self, name: str, api: str = "") -> Weather:
        """A worker of the host, and what can be seen there; it reaches the server at `api`."""
        settings = {
            **({"PREFECT_API_URL": f"{api}/api"} if api else {}),
            "MOONMIND_HOST_PATIENCE_SECONDS": "60",
            "MOONMIND_WORKDIR": str(self._folder / name),
            "MOONMIND_WORKER_NAME": f"host-{name}",
            **({"DOCKER_HOST": self.engine.url} if name == "first" else {}),
        }
        self.stack.start_worker(POOL, "container-task", settings=settings, process=name)
        return Weather(self.stack, POOL, self._folder / name)

    def left(self, run_id: str) -> tuple[int, int]:
        """How many containers of the run are on the first host, and on the second."""
        return len(left_on_engine(run_id, self.engine.url)), len(left_on_engine(run_id))

    def kill(self, name: str) -> None:
        process = self.stack.process(name)
        process.kill()
        process.wait()
        self.stack.forget(name)

    async def take_over(self) -> list[str]:
        """What a host without patience takes from others."""
        with temporary_settings({PREFECT_API_URL: f"{self.stack.address}/api"}):
            async with get_client() as client:
                me = ("host-second", "a worker")
                taker = TakeOver(client, LOGGER, POOL, me, patience_seconds=0)
                assert await taker.look() == [], "one look is not enough to call a host silent"
                for _ in range(5):
                    # A machine under load may not get to it in its time.
                    if told := await taker.look():
                        return told
                return []


@pytest.mark.docker
@pytest.mark.server
@pytest.mark.thorough
async def test_the_runs_of_a_host_that_is_gone_go_to_another_and_it_lets_go_of_them(
    hosts: Hosts,
) -> None:
    first = hosts.start("first")
    run_id = first.submit_and_see(shell(ENDLESS), "line 1\n")
    until(lambda: hosts.stack.flow_run(run_id)["labels"].get("moonmind.host"), what="its host")
    hosts.kill("first")
    second = hosts.start("second")
    (taken,) = await hosts.take_over()
    assert taken == f"{run_id}: its host host-first is silent"
    until(lambda: "line 1\n" in second.output(run_id), what="the other host's container")
    assert hosts.left(run_id) == (1, 1), "the container of the host that is gone runs on"
    until(lambda: _host(hosts.stack, run_id) == "host-second", what="the label")
    # It comes back, as after a power cut.
    hosts.start("first")
    until(lambda: hosts.left(run_id) == (0, 1), what="the first host's letting go")
    second.let_end(run_id)
    assert second.end(run_id)["state_type"] == "COMPLETED"
    second.assert_counted(run_id)
    # The first host began one, and the second the next.
    second.assert_told_once(run_id, attempts=2)


@pytest.mark.docker
@pytest.mark.server
@pytest.mark.thorough
async def test_a_run_without_starts_left_is_told_as_finished_by_another_host(hosts: Hosts) -> None:
    for name in ("first", "second"):
        if not hosts.stack.is_running(name):
            hosts.start(name)
    hosts.stack.stop("second")
    first = Weather(hosts.stack, POOL, hosts._folder / "first")
    run_id = first.submit_and_see(shell(ENDLESS, retry={"infrastructure": 0}), "line 1\n")
    until(lambda: _host(hosts.stack, run_id), what="its host")
    until(lambda: first.events(run_id), what="the event")
    hosts.kill("first")
    assert len(await hosts.take_over()) == 1
    until(lambda: len(first.events(run_id)) == 2, what="both events")
    assert hosts.stack.flow_run(run_id)["state_type"] == "CRASHED"
    hosts.start("first")
    until(lambda: hosts.left(run_id) == (0, 0), what="nothing left")
    first.assert_told_once(run_id)


def _host(stack: Stack, run_id: str) -> object:
    return stack.flow_run(run_id)["labels"].get("moonmind.host")


def _states(stack: Stack, run_id: str) -> list[str]:
    answer = stack.api("GET", f"/flow_run_states/?flow_run_id={run_id}")
    return [str(each["name"]) for each in answer.json()]


def _container(run_id: str, host: str) -> str:
    """The status of the run's container there, empty where there is none."""
    found = left_on_engine(run_id, host)
    command = ["docker", "--host", host, "inspect", "--format", "{{.State.Status}}", *found[:1]]
    if not found:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


@pytest.mark.docker
@pytest.mark.server
@pytest.mark.thorough
def test_a_host_that_is_cut_off_stands_still_while_another_takes_over_and_lets_go_afterwards(
    hosts: Hosts,
) -> None:
    for name in ("first", "second"):
        if hosts.stack.is_running(name):
            hosts.stack.stop(name)
    with Gateway(hosts.stack.address) as api:
        first = hosts.start("first", api.http)
        run_id = first.submit_and_see(shell(ENDLESS), "line 1\n")
        second = hosts.start("second")
        api.refuse()
        until(lambda: "line 1\n" in second.output(run_id), 400, what="the other's container")
        assert _container(run_id, hosts.engine.url) == "paused", "one of them runs, never two"
        seen = first.output(run_id)
        api.clear()
        until(lambda: hosts.left(run_id) == (0, 1), what="the first host's letting go")
        assert first.output(run_id) in (seen, ""), "it did not run on"
        assert _host(hosts.stack, run_id) == "host-second"
        second.let_end(run_id)
        assert second.end(run_id)["state_type"] == "COMPLETED"
        second.assert_counted(run_id)
        second.assert_told_once(run_id, attempts=2)
        states = _states(hosts.stack, run_id)
        assert states[states.index("AwaitingRetry") :] == [
            "AwaitingRetry", "Pending", "Running", "Completed",
        ]  # fmt: skip
        hosts.stack.stop("first")


@pytest.mark.docker
@pytest.mark.server
@pytest.mark.thorough
def test_an_absence_of_the_server_costs_no_run_more_than_its_time(hosts: Hosts) -> None:
    for name in ("first", "second"):
        if hosts.stack.is_running(name):
            hosts.stack.stop(name)
    with Gateway(hosts.stack.address) as api:
        hosts.start("first", api.http)
        second = hosts.start("second", api.http)
        first = Weather(hosts.stack, POOL, hosts._folder / "first")
        run_id = first.submit(shell(ENDLESS))
        until(lambda: "line 1\n" in first.output(run_id) + second.output(run_id), what="a start")
        runner = first if first.output(run_id) else second
        engine = hosts.engine.url if runner is first else DEFAULT
        api.refuse()
        until(lambda: _container(run_id, engine) == "paused", 300, what="its standing still")
        seen = runner.output(run_id)
        api.clear()
        until(lambda: len(runner.output(run_id)) > len(seen), what="its going on")
        runner.let_end(run_id)
        assert runner.end(run_id)["state_type"] == "COMPLETED"
        runner.assert_counted(run_id)
        runner.assert_told_once(run_id)
        assert "AwaitingRetry" not in _states(hosts.stack, run_id)


@pytest.mark.docker
@pytest.mark.server
@pytest.mark.thorough
async def test_what_a_dead_worker_left_stands_still_where_the_next_is_not_heard_and_then_goes_on(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        if hosts.stack.is_running(name):
            hosts.stack.stop(name)
    first = hosts.start("first")
    run_id = first.submit_and_see(shell(ENDLESS, timeoutSeconds=600), "line 1\n")
    hosts.kill("first")
    monkeypatch.setenv("DOCKER_HOST", hosts.engine.url)
    monkeypatch.setenv("MOONMIND_WORKDIR", str(hosts._folder / "first"))
    # As the next worker does when it starts, while no server answers.
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        async with get_client() as nobody:
            await stand_still_unless_heard(nobody, HostSettings(), LOGGER)
    assert _container(run_id, hosts.engine.url) == "paused"
    seen = first.output(run_id)
    hosts.start("first")
    until(lambda: len(first.output(run_id)) > len(seen), 300, what="its going on")
    first.let_end(run_id)
    assert first.end(run_id)["state_type"] == "COMPLETED"
    first.assert_counted(run_id)
    first.assert_told_once(run_id, host=hosts.engine.url)
