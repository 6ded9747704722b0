"""Whatever Docker's client raises comes out as an `EngineError`, in a sentence for an operator."""

import gc
import inspect
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

import docker
import docker.errors
import pytest
import requests
import requests.exceptions
import urllib3
import urllib3.exceptions
from prefect_docker import DockerHost

from flows.engine.docker.client import Connection, NotFound, said, translated
from flows.engine.docker.images import events
from flows.errors import EngineError, EngineRefused, EngineUnavailable
from tests.answering import Answering

ARGUMENTS: dict[type[Exception], tuple[Any, ...]] = {
    requests.exceptions.JSONDecodeError: ("words", "document", 0),
    urllib3.exceptions.IncompleteRead: (1, 2),
    urllib3.exceptions.InvalidChunkLength: (urllib3.HTTPResponse(), b"x"),
}


def errors_of(module: ModuleType) -> Iterator[type[Exception]]:
    """The exceptions that `module` itself makes; warnings are not raised."""
    for kind in vars(module).values():
        mine = inspect.isclass(kind) and kind.__module__ == module.__name__
        if mine and issubclass(kind, Exception) and not issubclass(kind, Warning):
            yield kind


def made(kind: type[Exception]) -> Exception:
    """One of `kind`, with words for every argument that it insists on."""
    if kind in ARGUMENTS:
        return kind(*ARGUMENTS[kind])
    with suppress(ValueError):
        wanted = [
            parameter
            for parameter in inspect.signature(kind).parameters.values()
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        ]
        return kind(*("words" for _ in wanted))
    return kind("words")


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for module in (docker.errors, requests.exceptions, urllib3.exceptions)
        for kind in errors_of(module)
    ]
    + [OSError, ConnectionResetError, BrokenPipeError, TimeoutError, socket.gaierror],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_every_error_of_the_clients_is_an_engine_error(kind: type[Exception]) -> None:
    with pytest.raises(EngineError, match="while looking") as raised, translated("looking"):
        raise made(kind)
    assert raised.value.__cause__ is not None
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("first", ["", "failed to set up container networking: "])
def test_a_network_that_is_gone_is_not_taken_for_a_container_that_is(first: str) -> None:
    words = f"{first}network moonmind-tasks not found"
    gone = docker.errors.NotFound("words", explanation=words)
    with pytest.raises(NotFound, match="network moonmind-tasks not found"), translated("x", "mm"):
        raise gone


def test_what_is_no_error_of_the_clients_passes() -> None:
    with pytest.raises(ZeroDivisionError), translated("looking"):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (404, "no such container", NotFound),
        (409, 'The name "/x" is already in use by container', EngineError),
        (409, "is paused", EngineRefused),
        (400, "Range of CPUs is from 0.01 to 2.00", EngineRefused),
        (500, "layer does not exist", EngineUnavailable),
    ],
)
def test_the_engines_own_words_are_kept(status: int, said: str, kind: type[EngineError]) -> None:
    response = requests.Response()
    response.status_code = status
    error = docker.errors.NotFound if status == 404 else docker.errors.APIError
    sentence = f"while creating: {said}"
    with pytest.raises(EngineError, match=sentence) as raised, translated("creating"):
        raise error("wrapping", response, said)
    assert type(raised.value) is kind


@pytest.fixture
def server() -> Iterator[str]:
    """A server that takes a request, answers with a part of what it promised, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        if b"/part" in connection.recv(65536):
                            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("unix:///no/such.sock", "No such file or directory"),
        ("unix:///etc/passwd", "Connection refused"),
        ("tcp://127.0.0.1:1", "Connection refused"),
        ("tcp://{server}", "Remote end closed connection without response"),
        ("foo://x", "Invalid bind address protocol: foo://x"),
    ],
)
# docker-py leaves a socket that it could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_does_not_answer_is_told_in_plain_words(
    server: str, monkeypatch: pytest.MonkeyPatch, host: str, reason: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", host.format(server=server))
    with pytest.raises(EngineUnavailable) as raised, translated("pulling busybox"):
        docker.from_env()
    sentence = str(raised.value)
    del raised
    gc.collect()
    assert sentence == (
        f"Docker at {host.format(server=server)} does not answer while pulling busybox: {reason}; "
        "check that the engine runs, that DOCKER_HOST names it, and that this worker may use it"
    )


def test_the_default_engine_is_named_where_no_variable_names_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    with pytest.raises(EngineUnavailable) as raised, translated("waiting"):
        raise TimeoutError("timed out")
    assert "at unix:///var/run/docker.sock does not answer while waiting: timed" in str(
        raised.value
    )


def test_a_stream_that_breaks_off_is_an_engine_that_does_not_answer(server: str) -> None:
    with urllib3.PoolManager() as pool:
        answer = pool.request("GET", f"http://{server}/part", preload_content=False)
        with pytest.raises(EngineUnavailable, match="IncompleteRead"), translated("reading"):
            answer.read()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"message": "no such container"}', "no such container"),
        ('{"message": "a", "rest": ' + "[" * 900 + "]" * 900 + "}", "a"),
        ("bad gateway", "bad gateway"),
        ('{"detail": "no"}', 'it said {"detail": "no"}'),
        ('{"message": ["no"]}', 'it said {"message": ["no"]}'),
        ('["no"]', 'it said ["no"]'),
        ("404", "it said 404"),
        ("[" * 50_000, "it said [["),
        ("\N{BYTE ORDER MARK}{}", r"\ufeff{}"),
    ],
    ids=lambda each: each[:30],
)
async def test_an_error_of_any_shape_is_an_engines_error(body: str, words: str) -> None:
    with Answering(500, body) as server:
        host = DockerHost(base_url=server.url.removesuffix("/api"), version="1.41")
        connection = Connection(host)
        with pytest.raises(EngineUnavailable) as error:
            await connection.call("looking", lambda api: api.inspect_container("c"))
        connection.close()
    assert f"Docker failed while looking: {words}" in str(error.value)


def test_what_an_engine_says_is_masked_before_it_is_cut() -> None:
    error = docker.errors.APIError("", explanation="x" * 495 + "t0ken-of-somebody")
    assert "t0k" not in said(error, ["t0ken-of-somebody"])


@pytest.mark.parametrize("line", [b"x" * 10_000, b"[]", b"[" * 100_000, b"{"])
def test_a_stream_of_what_is_no_event_ends_in_bounds(line: bytes) -> None:
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(50_000):
            taken += len(line)
            yield line
        yield b"\n"

    assert list(events([b'{"status": "a"}\n{"st', b'atus": "b"}'])) == [
        {"status": "a"},
        {"status": "b"},
    ]
    with pytest.raises(docker.errors.DockerException, match="it sent a line"):
        list(events(chunks()))
    assert taken < 1_000_000
