"""The first thing that is asked of an engine: which version of its API it speaks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prefect_docker import DockerHost

from flows.engine.docker.client import negotiated
from flows.engine.docker.engine import DockerEngine
from flows.errors import EngineUnavailable


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
