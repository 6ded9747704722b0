"""Who ended a container, as the engine's events tell it: every end looks different."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from uuid import uuid4

import docker
import pytest
from docker.models.containers import Container

from flows.engine.docker.evidence import evidence_of, read_evidence
from flows.engine.types import Evidence
from flows.errors import EngineError, EngineUnavailable
from tests.runs import BUSYBOX, EAT_MEMORY

ENDLESS = "echo up; sleep 60"
# Ends with the code of a signal that nobody sent.
OWN_EXIT = "exit 143"


class Launched:
    """A container that runs, and what its events say."""

    def __init__(self, client: docker.DockerClient, container: Container) -> None:
        self._client = client
        self.container = container
        container.reload()
        self.started_at = datetime.fromisoformat(container.attrs["State"]["StartedAt"])

    def until_it_speaks(self) -> None:
        """Before, its init takes no signals yet."""
        deadline = time.monotonic() + 60
        while not self.container.logs():
            assert time.monotonic() < deadline, "the container says nothing"
            time.sleep(0.01)

    def end(self) -> None:
        self.container.wait(timeout=60)
        self.container.reload()

    def evidence(self) -> Evidence:
        return read_evidence(self._client, str(self.container.name), self.started_at)


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    with contextlib.closing(docker.from_env()) as direct:
        yield direct


@pytest.fixture
def launch(client: docker.DockerClient) -> Iterator[Callable[..., Launched]]:
    """Starts containers that run a shell script."""
    prefix, made = f"evidence-test-{uuid4().hex}", []

    def start(script: str, suffix: str = "", **settings: Any) -> Launched:
        container = client.containers.create(
            BUSYBOX, ["sh", "-c", script], name=prefix + suffix, init=True, **settings
        )
        made.append(container)
        container.start()
        return Launched(client, container)

    yield start
    for container in made:
        with contextlib.suppress(docker.errors.NotFound):
            container.remove(force=True)


def kill(signal: str) -> Callable[[Container], None]:
    return lambda container: container.kill(signal)


@pytest.mark.docker
@pytest.mark.parametrize(
    ("script", "act", "expected"),
    [
        pytest.param(OWN_EXIT, None, Evidence((), exit_code=143), id="its own exit"),
        pytest.param(ENDLESS, kill("TERM"), Evidence((15,), exit_code=143), id="kill -TERM"),
        pytest.param(ENDLESS, kill("KILL"), Evidence((9,), exit_code=137), id="kill -KILL"),
        pytest.param(ENDLESS, Container.stop, Evidence((15,), exit_code=143), id="stop"),
        pytest.param(
            "trap '' TERM; echo up; while :; do sleep 0.1; done",
            lambda container: container.stop(timeout=1),
            Evidence((15, 9), exit_code=137),
            id="stop of one that ignores it",
        ),
    ],
)
def test_who_ended_a_container_shows(
    launch: Callable[..., Launched],
    script: str,
    act: Callable[[Container], None] | None,
    expected: Evidence,
) -> None:
    launched = launch(script)
    if act:
        launched.until_it_speaks()
        act(launched.container)
    launched.end()
    assert launched.evidence() == expected


@pytest.mark.docker
def test_a_removal_from_outside_shows(launch: Callable[..., Launched]) -> None:
    launched = launch(ENDLESS)
    launched.container.remove(force=True)
    assert launched.evidence() == Evidence((9,), exit_code=137, destroyed=True)


@pytest.mark.docker
def test_a_removal_after_the_end_is_no_kill(launch: Callable[..., Launched]) -> None:
    launched = launch(OWN_EXIT)
    launched.end()
    launched.container.remove(force=True)
    assert launched.evidence() == Evidence((), exit_code=143, destroyed=True)


@pytest.mark.docker
def test_a_lack_of_memory_shows(launch: Callable[..., Launched]) -> None:
    launched = launch(f"{EAT_MEMORY}; exit 137", mem_limit="16m")
    launched.end()
    assert launched.evidence() == Evidence((), oom=True, exit_code=137)


@pytest.mark.docker
def test_a_container_that_runs_has_no_evidence(launch: Callable[..., Launched]) -> None:
    assert launch(ENDLESS).evidence() == Evidence()


@pytest.mark.docker
def test_a_container_whose_name_begins_alike_is_another(launch: Callable[..., Launched]) -> None:
    first, second = launch(ENDLESS), launch(ENDLESS, suffix="-1")
    second.container.remove(force=True)
    assert first.evidence() == Evidence()


@pytest.mark.docker
@pytest.mark.parametrize("seconds", [-3600, 3600], ids=["slow", "fast"])
def test_a_clock_that_is_not_the_engines_hides_nothing_and_holds_nobody_up(
    launch: Callable[..., Launched], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    launched = launch(OWN_EXIT)
    launched.end()
    here = time.time
    monkeypatch.setattr("flows.engine.docker.evidence.time.time", lambda: here() + seconds)
    started = time.monotonic()
    assert launched.evidence().exit_code == 143
    assert time.monotonic() - started < 30


@pytest.mark.docker
def test_what_happened_before_the_window_is_left_out(
    client: docker.DockerClient, launch: Callable[..., Launched]
) -> None:
    launched = launch(OWN_EXIT)
    launched.end()
    finished = datetime.fromisoformat(launched.container.attrs["State"]["FinishedAt"])
    name = str(launched.container.name)
    later = finished + timedelta(seconds=1)
    assert read_evidence(client, name, later) == Evidence()


def test_an_engine_that_does_not_answer_is_an_engine_error() -> None:
    nowhere = docker.DockerClient("tcp://127.0.0.1:1", version="1.41")
    with contextlib.closing(nowhere), pytest.raises(EngineUnavailable):
        read_evidence(nowhere, "any", datetime.fromtimestamp(0))


@pytest.mark.docker
def test_an_engine_that_refuses_is_an_engine_error() -> None:
    unsupported = docker.from_env(version="9.99")
    with contextlib.closing(unsupported), pytest.raises(EngineError):
        read_evidence(unsupported, "any", datetime.fromtimestamp(0))


@contextlib.contextmanager
def busy_engine(seconds: float, status: int) -> Iterator[docker.DockerClient]:
    """Answers a ping so late and with that status; nothing has happened in it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_ping = self.path == "/_ping"
            time.sleep(seconds if is_ping else 0)
            # An engine that nobody waits for any more finds nobody.
            with contextlib.suppress(BrokenPipeError):
                self.send_response(status if is_ping else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep the tests' output clean."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        address = f"tcp://127.0.0.1:{server.server_port}"
        try:
            with contextlib.closing(docker.DockerClient(address, version="1.41")) as client:
                yield client
        finally:
            server.shutdown()
            thread.join()


def test_an_engine_that_is_busy_has_more_time_to_answer_than_a_person_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.engine.docker.client._PING_SECONDS", 0.1)
    with busy_engine(0.3, 200) as client:
        assert read_evidence(client, "any", datetime.fromtimestamp(0)) == Evidence()


def test_an_engine_that_refuses_to_be_pinged_is_no_evidence() -> None:
    with busy_engine(0, 503) as client, pytest.raises(EngineUnavailable):
        read_evidence(client, "any", datetime.fromtimestamp(0))


def test_events_of_others_are_nobody_elses_evidence() -> None:
    events = [
        {"Action": "kill", "Actor": {"Attributes": {"name": "a-1", "signal": "9"}}},
        {"Action": "kill", "Actor": {"Attributes": {"name": "a", "signal": "15"}}},
        {"Action": "die", "Actor": {"Attributes": {"name": "a", "exitCode": "143"}}},
    ]
    assert evidence_of("a", events) == Evidence((15,), exit_code=143)
