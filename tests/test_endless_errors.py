"""Errors of 50 MB in one line, from whatever is spoken to: told in a line, and hardly read."""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import docker
import pytest
from prefect_docker import DockerHost
from prefect_docker.containers import create_docker_container, start_docker_container
from pydantic import TypeAdapter, ValidationError

from blocks.reading import error_line, reason
from blocks.storage import ArtifactStorage
from flows.engine.docker.client import Connection, translated
from flows.engine.docker.engine import DockerEngine
from flows.engine.docker.images import DockerImages
from flows.errors import EngineError, EngineUnavailable, ImageError, StorageError
from flows.outputs.stores import FsspecStore, HashingReader, explain, open_store
from tests.endless import endless
from tests.s3 import Endpoint
from tests.specs import compiled
from tests.strategies import enabled

_LINE = 1_000
_MEMORY_BYTES = 8_000_000
# S3's client makes its methods of a model that takes more than the answer.
_S3_MEMORY_BYTES = 25_000_000


@contextmanager
def little_memory(most: int = _MEMORY_BYTES) -> Iterator[None]:
    """At no time does the block take much more than there was before."""
    tracemalloc.start()
    try:
        yield
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < most


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


S3_ERROR = (b"<Error><Code>AccessDenied</Code><Message>", b"</Message></Error>")


@pytest.mark.parametrize("status", [301, 403])
def test_an_error_without_end_of_s3_is_a_line(status: int) -> None:
    with endless(around=S3_ERROR, status=status) as address:
        options = Endpoint(0).options(address.replace("tcp", "http"))
        store = FsspecStore("s3://results/runs", options)
        with little_memory(_S3_MEMORY_BYTES), pytest.raises(Exception, match=r"\S") as error:
            store.put("a", HashingReader(BytesIO(b"a"), 1, lambda: False))
        store.close()
    said = explain(error.value, store.secrets)
    assert is_a_line(ValueError(said))
    assert len(said) <= 500


def test_nothing_of_a_secret_is_shown_that_is_cut() -> None:
    secret = "t0k" + "".join(sha256(bytes([n])).hexdigest() for n in range(30))
    for size in (490, 500, 32_760, 64_000):
        said = explain(ValueError("x" * size + secret * 40), [secret])
        assert "t0k" not in said
    assert explain(ValueError(secret * 50), [secret]) == "ValueError: " + "***" * 17


async def test_a_block_that_cannot_be_had_is_told_without_what_is_in_it(
    prefect_api: None,
) -> None:
    with pytest.raises(StorageError, match="cannot be had") as error:
        await open_store(ArtifactStorage(block="remote-file-system/" + "n" * 5))
    assert is_a_line(error.value)


def test_what_prefects_api_says_is_cut_to_a_line() -> None:
    assert len(error_line(ValueError("word\n" * 10_000))) == 500
    with pytest.raises(ValidationError) as error:
        TypeAdapter(dict[str, int]).validate_python({f"{n}": "s3cret" for n in range(1_000)})
    assert len(reason(error.value)) == 500
    assert "s3cret" not in reason(error.value)
