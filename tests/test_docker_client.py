"""The first thing that is asked of an engine: which version of its API it speaks."""

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest
import requests
from prefect_docker import DockerHost

from flows.engine.docker.client import Connection, negotiated
from flows.engine.docker.engine import DockerEngine
from flows.engine.docker.images import PullConnection
from flows.engine.docker.stats import Sampler
from flows.errors import EngineError, EngineRefused, EngineSilent, EngineUnavailable
from tests.runs import payload
from tests.specs import compiled


@contextmanager
def answering(status: int, headers: dict[str, str]) -> Iterator[DockerHost]:
    """A host where everything is answered like that."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": "0", **headers}.items():
                self.send_header(key, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield DockerHost(base_url=f"tcp://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


def test_the_engines_own_version_is_taken() -> None:
    with answering(200, {"Api-Version": "1.41"}) as host:
        assert negotiated(host).version == "1.41"


def test_a_version_that_somebody_chose_is_kept() -> None:
    chosen = DockerHost(base_url="tcp://127.0.0.1:1", version="1.40")
    assert negotiated(chosen) is chosen


@pytest.mark.parametrize(
    ("status", "headers"),
    [(200, {}), (403, {}), (404, {"Api-Version": "1.41"}), (503, {})],
    ids=["no engine", "a proxy that refuses", "no such page", "a proxy without its engine"],
)
async def test_a_ping_that_is_not_answered_is_an_engine_that_does_not_answer(
    status: int, headers: dict[str, str]
) -> None:
    with answering(status, headers) as host:
        async with DockerEngine(host=host) as engine:
            with pytest.raises(EngineUnavailable, match="does not answer"):
                await engine.capacity()


class Closed:
    """A connection that its thread has closed, and whose number another run's has by now."""

    def __init__(self) -> None:
        self.others, self.peer = socket.socketpair()
        self.is_read, self.is_shut_down = threading.Event(), threading.Event()

    def fileno(self) -> int:
        return self.others.fileno()

    def shutdown(self, *_: int) -> None:
        self.is_shut_down.set()

    def assert_alone_is_shut_down(self) -> None:
        with self.others, self.peer:
            self.others.send(b"1")
            assert self.peer.recv(1) == b"1"
            assert self.is_shut_down.is_set()


def test_a_pull_that_is_hung_up_ends_no_connection_of_another_run() -> None:
    closed, pull = Closed(), PullConnection()
    pull._connection = SimpleNamespace(sock=closed)
    pull.hang_up()
    closed.assert_alone_is_shut_down()


class Stream:
    """The answer of an engine that samples a container, until it is shut down."""

    status_code = 200

    def __init__(self, raw: Closed) -> None:
        self.raw = raw

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def iter_lines(self) -> Iterator[bytes]:
        self.raw.is_read.set()
        self.raw.is_shut_down.wait(60)
        return iter(())


def test_a_sampler_that_is_stopped_ends_no_connection_of_another_run() -> None:
    closed = Closed()
    api = SimpleNamespace(
        base_url="", api_version="1.41", timeout=1, get=lambda *_, **__: Stream(closed)
    )
    client: Any = SimpleNamespace(api=api)
    sampler = Sampler(client, "any")
    sampler.start()
    assert closed.is_read.wait(60)
    sampler.stop()
    closed.assert_alone_is_shut_down()
    assert sampler.join(60)


class Freezer:
    """An engine's answers to `pause`, the last one for ever, and of a container that runs on."""

    api_version = "1.41"

    def __init__(self, *answers: int | Exception) -> None:
        self._answers = list(answers)
        self.asked = 0

    def pause(self, name: str) -> None:
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        if answer != 204:
            response = requests.Response()
            response.status_code = answer
            raise docker.errors.APIError("words", response, "cannot pause container")

    def inspect_container(self, name: str) -> Mapping[str, Any]:
        never = "0001-01-01T00:00:00Z"
        told = {"Status": "running", "Running": True, "Paused": False, "OOMKilled": False}
        return {"State": told | {"Error": "", "StartedAt": never, "FinishedAt": never}}


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([requests.ConnectionError("reset")], EngineSilent),
        ([503], EngineSilent),
        ([500, 502], EngineSilent),
        ([500], EngineRefused),
        ([403], EngineRefused),
        ([500, 204], None),
    ],
)
async def test_only_a_lasting_answer_of_the_engines_own_says_that_it_cannot_pause(
    monkeypatch: pytest.MonkeyPatch,
    answers: list[int | Exception],
    kind: type[EngineError] | None,
) -> None:
    monkeypatch.setattr("flows.engine.docker.pausing._FAULT_PAUSES_SECONDS", (0.0, 0.0))
    api, engine = Freezer(*answers), DockerEngine()
    monkeypatch.setattr(Connection, "client", SimpleNamespace(api=api, close=lambda: None))
    raised: Exception | None = None
    try:
        await engine.pause(compiled(payload("sleep")))
    except EngineError as error:
        raised = error
    assert type(raised) is (kind or type(None))
