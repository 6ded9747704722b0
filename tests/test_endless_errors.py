"""Errors of 50 MB in one line, from whatever is spoken to: told in a line, and hardly read."""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from prefect_docker import DockerHost
from prefect_docker.containers import create_docker_container, start_docker_container

from flows.engine.docker.client import Connection, translated
from flows.engine.docker.engine import DockerEngine
from flows.engine.docker.images import DockerImages
from flows.errors import EngineError, EngineUnavailable, ImageError
from tests.endless import endless
from tests.specs import compiled
from tests.strategies import enabled

_LINE = 1_000
_MEMORY_BYTES = 8_000_000


@contextmanager
def little_memory() -> Iterator[None]:
    """At no time does the block take much more than there was before."""
    tracemalloc.start()
    try:
        yield
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < _MEMORY_BYTES


def is_a_line(error: BaseException) -> bool:
    return len(str(error)) <= _LINE and len(str(error).splitlines()) == 1


PLAIN_CALLS: dict[str, Callable[[docker.APIClient], Any]] = {
    "inspect": lambda api: api.inspect_container("c"),
    "image": lambda api: api.inspect_image("i"),  # type: ignore[no-untyped-call]
    "create": lambda api: api.create_container("i"),
    "start": lambda api: api.start("c"),
    "wait": lambda api: api.wait("c"),
    "stop": lambda api: api.stop("c"),
    "remove": lambda api: api.remove_container("c"),
    "volumes": lambda api: api.volumes(),
    "network": lambda api: api.create_network("n"),
}


@pytest.fixture(params=["by TCP", "by a socket"])
def engine_at(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DockerHost]:
    with endless(tmp_path / "engine" if request.param == "by a socket" else None) as address:
        yield DockerHost(base_url=address)


@pytest.mark.parametrize("call", PLAIN_CALLS)
async def test_an_error_without_end_of_any_call_is_a_line(engine_at: DockerHost, call: str) -> None:
    connection = Connection(engine_at)
    await connection.call("pinging", lambda api: api.ping())
    with little_memory(), pytest.raises(EngineUnavailable) as error:
        await connection.call("trying", PLAIN_CALLS[call])
    connection.close()
    assert is_a_line(error.value)
    assert "while trying: " in str(error.value)


@pytest.mark.usefixtures("outside_a_run")
@pytest.mark.parametrize("call", [create_docker_container, start_docker_container])
async def test_an_error_without_end_through_prefect_docker_is_a_line(
    engine_at: DockerHost, call: Any
) -> None:
    host = Connection(engine_at).host
    failing = pytest.raises(EngineUnavailable)
    with little_memory(), failing as error, translated("trying"):
        await call.fn("name", docker_host=host)
    assert is_a_line(error.value)


async def test_an_error_without_end_of_a_registry_is_a_line(engine_at: DockerHost) -> None:
    request = compiled(enabled(image="registry.example.org/image:1"))
    connection = Connection(engine_at)
    with little_memory(), pytest.raises(ImageError) as error:
        await DockerImages(connection).fetch(request, None, lambda _: None, 10.0)
    connection.close()
    assert is_a_line(error.value)


@pytest.mark.usefixtures("outside_a_run")
async def test_the_outcome_of_a_step_that_meets_one_is_a_line(engine_at: DockerHost) -> None:
    spec = compiled(enabled())
    async with DockerEngine(host=engine_at) as engine:
        for step in (engine.inspect, engine.start, engine.destroy):
            with little_memory(), pytest.raises(EngineError) as error:
                await step(spec)
            assert is_a_line(error.value)


async def test_what_grows_when_it_is_unpacked_is_not_unpacked() -> None:
    with endless(headers={"Content-Encoding": "gzip"}) as address:
        connection = Connection(DockerHost(base_url=address))
        await connection.call("pinging", lambda api: api.ping())
        with little_memory(), pytest.raises(EngineUnavailable) as error:
            await connection.call("trying", lambda api: api.inspect_container("c"))
        connection.close()
    assert is_a_line(error.value)


async def test_a_redirection_without_end_is_not_read_either() -> None:
    with endless(status=301, headers={"Location": "/elsewhere"}) as address:
        connection = Connection(DockerHost(base_url=address))
        await connection.call("pinging", lambda api: api.ping())
        with little_memory(), pytest.raises(EngineUnavailable) as error:
            await connection.call("trying", lambda api: api.inspect_container("c"))
        connection.close()
    assert is_a_line(error.value)
