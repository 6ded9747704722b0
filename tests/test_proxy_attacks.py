"""Whatever spelling is tried on the docker-proxy, nothing beyond a task's rights is made."""

import http.client
import json
import random
import socket
from collections.abc import Iterator
from itertools import islice
from uuid import uuid4

import pytest

from tests.docker_proxy import SOCKET, docker_proxy
from tests.proxy_attacks import FORBIDDEN, SPELLINGS, WIRES, Mark, Wire, spoken, variants

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """As strict as in the compose stack."""
    with docker_proxy() as number:
        yield number


@pytest.fixture
def mark() -> Iterator[Mark]:
    own = Mark(str(uuid4()))
    yield own
    own.remove()


@pytest.mark.thorough
@pytest.mark.parametrize("what", FORBIDDEN)
def test_an_engine_that_is_asked_plainly_makes_it(what: str, mark: Mark) -> None:
    connection = http.client.HTTPConnection("docker")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(SOCKET))
    target = f"/v1.41/containers/create?name={mark.name}"
    body = json.dumps(mark.creation(FORBIDDEN[what]))
    connection.request("POST", target, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, mark.made() != []) == (201, True), answer.read()
    connection.close()


def test_a_tasks_creation_is_made(port: int, mark: Mark) -> None:
    target = f"/v1.41/containers/create?name={mark.name}"
    answer = spoken(port, Wire(target, json.dumps(mark.creation({})).encode()).written())
    assert answer.startswith(b"HTTP/1.1 201 "), answer
    assert len(mark.made()) == 2


@pytest.mark.parametrize(
    "requests",
    [300, pytest.param(10_000, marks=pytest.mark.thorough)],
)
def test_no_spelling_of_a_forbidden_creation_comes_through(
    port: int, mark: Mark, requests: int
) -> None:
    tried = []
    for number, (what, request) in enumerate(islice(variants(mark, random.Random(5)), requests), 1):
        answer = spoken(port, request)
        tried.append((what, answer[:60]))
        if number % 100 == 0:
            assert mark.made() == [], tried[-100:]
    assert mark.made() == []
    assert {spelling for spelling in SPELLINGS if any(spelling in what for what, _ in tried)} == {
        *SPELLINGS
    }
    assert {wire for wire in WIRES if any(what.endswith(wire) for what, _ in tried)} == {*WIRES}
