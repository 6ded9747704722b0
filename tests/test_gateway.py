"""The weather that tests make does what it says: else they would prove nothing."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.gateway import Gateway, Said
from tests.runs import until

ANSWER = b"0123456789" * 1000


class Server(ThreadingHTTPServer):
    """Answers everything with the same, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                asked.append((self.path, body))
                self.send_response_only(200)
                self.send_header("Content-Length", str(len(ANSWER)))
                self.end_headers()
                self.wfile.write(ANSWER)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                """Keep the tests' output clean."""

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def gateway(server: Server) -> Iterator[Gateway]:
    with Gateway(f"http://127.0.0.1:{server.server_port}") as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    """It keeps its connections, as the clients of Docker and of Prefect do."""
    with httpx.Client(base_url=gateway.http, timeout=30) as client:
        yield client


def test_everything_goes_through_and_back(client: httpx.Client, server: Server) -> None:
    for size in (0, 10, 3_000_000):
        assert client.post(f"/{size}", content=b"x" * size).content == ANSWER
    assert [(path, len(body)) for path, body in server.asked] == [
        ("/0", 0), ("/10", 10), ("/3000000", 3_000_000)
    ]  # fmt: skip


def test_a_body_in_pieces_and_a_request_after_it_go_through(client: httpx.Client) -> None:
    with httpx.Client(base_url=client.base_url) as other:
        assert other.post("/", content=iter([b"a", b"b"])).content == ANSWER
    assert client.get("/").content == ANSWER


def test_a_gateway_that_refuses_has_nobody_listening_and_comes_back_at_the_same_port(
    gateway: Gateway, client: httpx.Client
) -> None:
    port = gateway.port
    for _ in range(3):
        with gateway.refusing(), pytest.raises(httpx.ConnectError, match="refused"):
            client.get("/")
        assert client.get("/").content == ANSWER
    assert gateway.port == port


def test_a_gateway_at_a_path_refuses_and_comes_back(server: Server, tmp_path: Path) -> None:
    with Gateway(f"http://127.0.0.1:{server.server_port}", at=tmp_path / "socket") as gateway:
        assert gateway.url == f"unix://{tmp_path}/socket"
        for _ in range(2):
            with httpx.Client(
                transport=httpx.HTTPTransport(uds=str(tmp_path / "socket"))
            ) as client:
                assert client.get("http://host/").content == ANSWER
                with gateway.refusing(), pytest.raises(httpx.ConnectError):
                    client.get("http://host/")
    assert not (tmp_path / "socket").exists()


def test_a_cut_ends_what_is_open_and_nothing_else(gateway: Gateway, client: httpx.Client) -> None:
    with gateway.pausing(b"GET /slow") as asked, ThreadPoolExecutor() as threads:
        cut = threads.submit(client.get, "/slow")
        assert asked.wait(30)
        gateway.cut()
        assert client.get("/other").content == ANSWER
    with pytest.raises(httpx.RemoteProtocolError):
        cut.result()


def test_a_gateway_that_hangs_answers_nothing_and_then_goes_on(
    gateway: Gateway, client: httpx.Client, server: Server
) -> None:
    client.get("/before")
    with gateway.hanging(), ThreadPoolExecutor() as threads:
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{gateway.http}/patience-is-short", timeout=0.2)
        old = threads.submit(client.get, "/old")
        new = threads.submit(httpx.get, f"{gateway.http}/new", timeout=30)
        until(lambda: gateway.connections >= 2, what="both connections")
        assert [path for path, _ in server.asked] == ["/before"]
        gateway.clear()
        assert old.result().content == new.result().content == ANSWER


def test_a_delay_is_that_of_each_answer(gateway: Gateway, client: httpx.Client) -> None:
    with gateway.delaying(0.2):
        assert client.get("/").elapsed.total_seconds() > 0.2
    assert client.get("/").content == ANSWER


def test_a_request_is_met_by_its_body_however_it_arrives(
    gateway: Gateway, client: httpx.Client, server: Server
) -> None:
    with gateway.holding(b'"type":"PENDING"') as asked:
        client.post("/set_state", content=b'{"type":"RUNNING"}')
        with pytest.raises(httpx.ReadTimeout):
            client.post("/set_state", content=b'{"type":"PENDING"}', timeout=0.2)
        assert asked.wait(30)
        assert client.post("/set_state", content=b'{"type":"PENDING"}').content == ANSWER
    assert [body for _, body in server.asked] == [b'{"type":"RUNNING"}', b'{"type":"PENDING"}']


def test_a_paused_request_goes_through_when_the_block_ends(
    gateway: Gateway, client: httpx.Client, server: Server
) -> None:
    with ThreadPoolExecutor() as threads:
        with gateway.pausing(b"GET /later") as asked:
            answer = threads.submit(client.get, "/later")
            assert asked.wait(30)
            assert server.asked == []
        assert answer.result().content == ANSWER


@pytest.mark.parametrize("part", [0, 0.5])
def test_a_request_whose_answer_is_lost_is_done(
    gateway: Gateway, client: httpx.Client, server: Server, part: float
) -> None:
    arrived: list[bytes] = []

    def ask() -> None:
        with client.stream("POST", "/once") as answer:
            arrived.extend(answer.iter_raw())

    with gateway.losing_answer(b"POST /once", part=part), pytest.raises(httpx.RemoteProtocolError):
        ask()
    assert b"".join(arrived) == ANSWER[: int(len(ANSWER) * part)]
    assert server.asked == [("/once", b"")]
    assert client.post("/once").content == ANSWER


def test_what_is_said_in_the_servers_place_never_reaches_it(
    gateway: Gateway, client: httpx.Client, server: Server
) -> None:
    with gateway.saying("POST /containers/.*/start", Said(503, "not now")) as asked:
        answer = client.post("/v1.41/containers/x/start?a=b", content=b"{}")
        assert (answer.status_code, answer.text) == (503, "not now")
        assert client.post("/v1.41/containers/x/stop").content == ANSWER
    assert len(asked.requests) == 1
    assert [path for path, _ in server.asked] == ["/v1.41/containers/x/stop"]


def test_so_many_requests_are_met_and_no_more(gateway: Gateway, client: httpx.Client) -> None:
    with gateway.saying("GET /", Said(503, ""), times=2), gateway.noting(b"GET /") as noted:
        assert [client.get("/").status_code for _ in range(3)] == [503, 503, 200]
    assert len(noted.requests) == 3


def test_connections_end_with_their_life_and_so_many_of_them(server: Server) -> None:
    to = f"http://127.0.0.1:{server.server_port}"
    with Gateway(to, life_seconds=0.2, lives=1) as gateway, gateway.pausing(b"GET", times=2):
        with pytest.raises((httpx.RemoteProtocolError, httpx.NetworkError)):
            httpx.get(gateway.http, timeout=30)
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(gateway.http, timeout=1)


def test_a_server_that_is_not_there_ends_the_connection() -> None:
    with Gateway("http://127.0.0.1:1") as nowhere, pytest.raises(httpx.TransportError):
        httpx.get(nowhere.http)
