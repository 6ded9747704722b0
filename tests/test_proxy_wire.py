"""What the docker-proxy takes from a client, and what it writes to an engine, byte by byte."""

import asyncio
import base64
import http.client
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from flows.docker_proxy import server
from flows.docker_proxy.calls import understood
from flows.docker_proxy.refused import Refused
from flows.docker_proxy.registry_auth import rewritten
from flows.docker_proxy.settings import Settings
from flows.docker_proxy.strict_json import parse
from flows.docker_proxy.target import taken_apart
from tests.proxy_attacks import spoken

JOB = "00000000-0000-4000-8000-000000000000"
TASK = f"mm-task-{JOB}-1"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\n{}"


class Recorded:
    """An engine that gives every request the same answer, and remembers each."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.requests.append(connection.recv(1 << 20))
                connection.sendall(self._answer)


@contextmanager
def recorded(folder: Path, answer: bytes = OK) -> Iterator[Recorded]:
    with closing(Recorded(folder / "engine.sock", answer)) as engine:
        yield engine


@asynccontextmanager
async def proxy_at(folder: Path) -> AsyncIterator[int]:
    """The proxy in this process, before whatever listens in `folder`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        settings = Settings(("127.0.0.1", port), str(folder / "engine.sock"))
        serving = asyncio.create_task(server.serve(listener, settings))
        try:
            yield port
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def said(port: int, sent: bytes) -> bytes:
    """What is answered, to the end of the connection."""
    return await asyncio.to_thread(spoken, port, sent, 30)


def request(first: str, *headers: str, body: bytes = b"") -> bytes:
    lines = (f"{first} HTTP/1.1", "Host: a", "Connection: close", *headers)
    if body:
        lines = (*lines, f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body


WRITTEN = [
    (
        request("GET /%5fping", "X-Registry-Auth: e30=", "Accept: */*", "Cookie: a"),
        b"GET /_ping HTTP/1.1\r\nHost: docker\r\nUser-Agent: docker-proxy\r\n"
        b"Connection: close\r\n\r\n",
    ),
    (
        request(f"POST /v1.41/containers/{TASK}/%73top?%74=%31%30"),
        f"POST /v1.41/containers/{TASK}/stop?t=10 HTTP/1.1\r\nHost: docker\r\n"
        "User-Agent: docker-proxy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode(),
    ),
    (
        request(f"POST /v1.41/containers/{TASK}/pause"),
        f"POST /v1.41/containers/{TASK}/pause HTTP/1.1\r\nHost: docker\r\n"
        "User-Agent: docker-proxy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode(),
    ),
    (
        request(f"POST /containers/{TASK}/attach?stdout=1", "Upgrade: tcp").replace(
            b"Connection: close", b"Connection: Upgrade"
        ),
        f"POST /containers/{TASK}/attach?stdout=1 HTTP/1.1\r\nHost: docker\r\n"
        "User-Agent: docker-proxy\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        "Content-Length: 0\r\n\r\n".encode(),
    ),
    (
        request(
            "POST /volumes/create",
            "Content-Type: application/json; charset=utf-8",
            body=b' {"\\u004eame" : "nuget",\n"Labels": {"moonmind.cache" :"true", '
            b'"moonmind.cache_owner": "\\u00fc"} }',
        ),
        b"POST /volumes/create HTTP/1.1\r\nHost: docker\r\nUser-Agent: docker-proxy\r\n"
        b"Connection: close\r\nContent-Type: application/json\r\nContent-Length: 79\r\n\r\n"
        b'{"Name":"nuget","Labels":{"moonmind.cache":"true","moonmind.cache_owner":"\xc3\xbc"}}',
    ),
    (
        request("GET /networks?filters=%7B%22type%22%3A+%5B%22builtin%22+%5D%7D"),
        b"GET /networks?filters=%7B%22type%22%3A%5B%22builtin%22%5D%7D HTTP/1.1\r\n"
        b"Host: docker\r\nUser-Agent: docker-proxy\r\nConnection: close\r\n\r\n",
    ),
]


@pytest.mark.parametrize(("given", "written"), WRITTEN, ids=lambda each: each[:30].decode())
async def test_what_reaches_the_engine_is_written_anew(
    given: bytes, written: bytes, tmp_path: Path
) -> None:
    with recorded(tmp_path) as engine:
        async with proxy_at(tmp_path) as port:
            answer = await said(port, given)
    assert engine.requests == [written]
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n{}")


async def test_an_answer_that_breaks_off_is_no_whole_one(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nOK"
    with recorded(tmp_path, answer):
        async with proxy_at(tmp_path) as port:
            told = await said(port, request("GET /_ping"))
    assert b"ontent-length: 10" in told.lower()
    assert told.endswith(b"\r\n\r\nOK")


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n"])
async def test_an_engine_that_does_not_answer_is_told(answer: bytes, tmp_path: Path) -> None:
    with recorded(tmp_path, answer):
        async with proxy_at(tmp_path) as port:
            told = await said(port, request("GET /_ping"))
    assert told.startswith(b"HTTP/1.1 502 ")
    assert b"the docker-proxy lost the engine" in told


async def test_an_engine_that_is_away_is_told(tmp_path: Path) -> None:
    async with proxy_at(tmp_path) as port:
        told = await said(port, request("GET /_ping"))
    assert told.startswith(b"HTTP/1.1 503 ")
    assert b"the docker-proxy reaches no engine" in told


JSON = "Content-Type: application/json"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("GET /_ping", body=b"x"), 403),
        (request("GET /_ping") + request("GET /_ping"), 400),
        (request("GET /_ping").replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
        (request("GET /_ping").replace(b"HTTP/1.1", b"HTTP/2.0"), 505),
        (b"GET /_ping\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (request("GET /_ping").replace(b"Host: a\r\n", b""), 400),
        (request("GET /_ping", "Host: b"), 400),
        (request("GET /_ping", "A : b"), 400),
        (request("GET /_ping", "A: b\x00c"), 400),
        (request("GET /_ping", "Content-Length: -1"), 400),
        (request("GET /_ping", "Content-Length: 1, 2"), 400),
        (request("GET /_ping", "Content-Length: 0", "Content-Length: 1"), 400),
        (request("GET /_ping", "Transfer-Encoding: gzip"), 501),
        (request("GET /_ping", "Transfer-Encoding: chunked"), 403),
        (request("GET /_ping", "Transfer-Encoding: chunked", "Content-Length: 5"), 403),
        (request("GET /_ping", f"A: {'b' * 999_000}"), 431),
        (request(f"GET /{'_' * 999_000}"), 431),
        (request("POST /volumes/create", JSON, body=b" " * 1_100_000), 413),
        (request("POST /volumes/create", JSON, "Content-Length: 99999999"), 413),
        (request("POST /volumes/create", "Content-Type: text/json", body=b"{}"), 403),
        (request("POST /volumes/create", JSON, body=b"\xff"), 403),
        (request("GET http://docker/_ping"), 403),
        (request("GET /_ping#x"), 403),
        (request("GET /_ping?"), 200),
        (request("GET /_ping?x=1"), 403),
        (request("GET /_ping?x"), 403),
        (request("GET /_ping%"), 403),
        (request("GET /_ping%zz"), 403),
        (request("GET /_ping%00"), 403),
        (request("GET /_ping%ff"), 403),
        (request("GET /%c0%aeping"), 403),
        (request("GET /%255fping"), 403),
        (request("GET //_ping"), 403),
        (request("GET /./_ping"), 403),
        (request("GET /_ping/"), 403),
        (request("GET /_PING"), 403),
        (request("get /_ping"), 403),
        (request("OPTIONS *"), 403),
        (request("CONNECT docker:1"), 403),
    ],
    ids=lambda each: each[:60].decode("latin-1") if isinstance(each, bytes) else "",
)
async def test_what_can_be_read_in_two_ways_is_not_read(
    sent: bytes, status: int, tmp_path: Path
) -> None:
    with recorded(tmp_path) as engine:
        async with proxy_at(tmp_path) as port:
            answer = await said(port, sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert status == 200 or (b"the docker-proxy " in answer and engine.requests == [])


async def test_a_request_for_a_head_alone_is_refused_without_a_body(tmp_path: Path) -> None:
    async with proxy_at(tmp_path) as port:
        answer = await said(port, request("HEAD /_ping"))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.endswith(b"\r\n\r\n")


async def test_a_fault_of_its_own_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "taken_apart", None)
    async with proxy_at(tmp_path) as port:
        asked = await asyncio.to_thread(_one_after_the_other, port, "/_ping", "/_ping")
    assert asked == [500, 500]


@pytest.mark.parametrize("answer", ["[]", "nonsense", '{"Name": "x"'])
async def test_an_answer_about_a_volume_that_is_none_is_not_passed_on(
    answer: str, tmp_path: Path
) -> None:
    whole = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n{answer}"
    with recorded(tmp_path, whole.encode()):
        async with proxy_at(tmp_path) as port:
            told = await said(port, request("GET /volumes/cache"))
    assert told.startswith(b"HTTP/1.1 502 ")


def test_half_of_a_surrogate_pair_is_no_text() -> None:
    assert parse('["\\ud83d\\ude00"]', "the body") == ["\U0001f600"]
    with pytest.raises(Refused, match="codec"):
        parse('["\\ud83d"]', "the body")


@pytest.mark.parametrize("values", ["1", "[]", '{"Type":1}', '""'])
def test_a_body_of_too_many_values_is_refused_before_each_is_looked_at(values: str) -> None:
    """Each wrong value costs as much as a thousand bytes of a body."""
    with pytest.raises(Refused, match="too many values"):
        parse(f'{{"Mounts":[{",".join([values] * 20_000)}]}}', "the body")


def test_a_cache_of_nobody_is_refused_with_the_reason() -> None:
    body = b'{"Name":"nuget","Labels":{"moonmind.cache":"true"}}'
    with pytest.raises(Refused, match=r"'Labels'.*somebody's"):
        understood("POST", taken_apart("/volumes/create"), body, "application/json", "")


async def test_a_connection_is_kept_after_answers_and_refusals(tmp_path: Path) -> None:
    with recorded(tmp_path):
        async with proxy_at(tmp_path) as port:
            asked = await asyncio.to_thread(_one_after_the_other, port, "/_ping", "/info", "/_ping")
    assert asked == [200, 403, 200]


def _one_after_the_other(port: int, *paths: str) -> list[int]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.connect()
        # http.client would connect anew where it was hung up on.
        connection.auto_open = 0
        statuses = []
        for path in paths:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        return statuses


async def test_who_sends_a_request_too_slowly_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.1)
    async with proxy_at(tmp_path) as port:
        head = await said(port, b"GET /_ping HTT")
        body = await said(port, request("POST /volumes/create", JSON, "Content-Length: 9"))
    for answer in (head, body):
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_who_says_nothing_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.1)
    async with proxy_at(tmp_path) as port:
        assert await said(port, b"") == b""


async def test_connections_beyond_the_limit_wait_for_one_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    with recorded(tmp_path):
        async with proxy_at(tmp_path) as port:
            with closing(socket.create_connection(("127.0.0.1", port))):
                idle = socket.create_connection(("127.0.0.1", port))
                third = asyncio.create_task(said(port, request("GET /_ping")))
                done, _ = await asyncio.wait({third}, timeout=0.2)
                assert not done
                idle.close()
                assert (await third).startswith(b"HTTP/1.1 200 ")


# The log-in for a registry.


def _header(told: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(told).encode()).decode()


@pytest.mark.parametrize(
    ("told", "written"),
    [
        ({}, {}),
        ({"username": "u", "password": "p?>ÿ"}, {"username": "u", "password": "p?>ÿ"}),
        ({"Username": "u", "Password": "p"}, {"username": "u", "password": "p"}),
        (
            {"IdentityToken": "t", "ServerAddress": "r"},
            {"identitytoken": "t", "serveraddress": "r"},
        ),
        ({"username": "u", "email": None}, {"username": "u"}),
    ],
)
def test_a_log_in_is_written_anew(told: object, written: object) -> None:
    assert json.loads(base64.urlsafe_b64decode(rewritten(_header(told)))) == written


@pytest.mark.parametrize(
    "header",
    [
        "secret",
        "c2VjcmV0",
        _header([]),
        _header({"username": "secret", "pa\u017fsword": "secret"}),
        _header({"USERNAME": "secret"}),
        _header({"username": {"secret": "secret"}}),
        _header({"username": "secret", "Username": "secret"}),
        base64.urlsafe_b64encode(b'{"username":"secret","username":"secret"}').decode(),
    ],
)
def test_what_is_no_log_in_is_refused_and_not_shown(header: str) -> None:
    with pytest.raises(Refused) as refused:
        rewritten(header)
    assert "secret" not in refused.value.sentence


@pytest.mark.parametrize("minor", [41, 45, 51, 999])
def test_versions_since_the_oldest_engines_are_passed_on(minor: int) -> None:
    assert taken_apart(f"/v1.{minor}/_ping").version == f"/v1.{minor}"
