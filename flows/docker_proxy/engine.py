"""Connections to the engine's socket, one a request, and what the filter itself asks there."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, NamedTuple

import h11

from flows.docker_proxy.refused import Refused

_PIECE_BYTES = 256 * 1024
_ASKED_SECONDS = 30.0
_CONNECT_SECONDS = 5.0


class Answer(NamedTuple):
    """What the engine said to a question of the filter's own."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    def json(self) -> dict[str, Any] | None:
        """The object that it tells of; None where it has none. Raises `Refused` for what is
        neither."""
        if self.status == HTTPStatus.NOT_FOUND:
            return None
        if self.status != HTTPStatus.OK:
            raise Refused(f"was told {self.status} by the engine", HTTPStatus.BAD_GATEWAY)
        found: dict[str, Any] = self.parsed()
        return found

    def parsed(self) -> Any:
        """What the body says. Raises `Refused` where it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            why = "was told no JSON by the engine"
            raise Refused(why, HTTPStatus.BAD_GATEWAY) from error


class Engine:
    """The engine at a socket of this host."""

    def __init__(self, path: str) -> None:
        self._path = path

    @contextmanager
    def opened(self) -> Iterator[socket.socket]:
        """A new socket, not connected yet."""
        with socket.socket(socket.AF_UNIX) as made:
            made.setblocking(False)
            yield made

    async def connect(self, made: socket.socket) -> None:
        """Raises `Refused` where nobody listens."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await loop.sock_connect(made, self._path)
        except (OSError, TimeoutError) as error:
            why = f"reaches no engine at {self._path}: {error!r}"
            raise Refused(why, HTTPStatus.SERVICE_UNAVAILABLE) from error

    async def ask(self, path: str) -> Answer:
        """The answer to `GET path`. Raises `Refused` where there is none."""
        with self.opened() as made:
            await self.connect(made)
            try:
                async with asyncio.timeout(_ASKED_SECONDS):
                    connection = h11.Connection(h11.CLIENT)
                    request = h11.Request(method="GET", target=path, headers=HEADERS)
                    await send(made, connection.send(request) or b"")
                    return await answer_of(made, connection)
            except (OSError, TimeoutError, h11.ProtocolError, ValueError) as error:
                why = f"gets no answer from the engine: {error!r}"
                raise Refused(why, HTTPStatus.BAD_GATEWAY) from error


async def answer_of(made: socket.socket, connection: h11.Connection) -> Answer:
    """The whole answer to what was sent. Raises `h11.ProtocolError` and `OSError`."""
    status, headers, body = 0, {}, bytearray()
    while True:
        event = await next_event(made, connection)
        if isinstance(event, h11.Response):
            status, headers = event.status_code, dict(event.headers)
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            return Answer(status, headers, bytes(body))


HEADERS = [("Host", "docker"), ("User-Agent", "docker-proxy"), ("Connection", "close")]


async def next_event(made: socket.socket, connection: h11.Connection) -> Any:
    """What comes next on it. Raises `h11.ProtocolError` and `OSError`."""
    loop = asyncio.get_running_loop()
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await loop.sock_recv(made, _PIECE_BYTES))
    return event


async def send(made: socket.socket, data: bytes | memoryview) -> None:
    """All of it, as fast as it is taken."""
    await asyncio.get_running_loop().sock_sendall(made, data)


async def copy(source: socket.socket, target: socket.socket) -> None:
    """Everything that comes, to its end, as fast as it is taken."""
    loop = asyncio.get_running_loop()
    view = memoryview(bytearray(_PIECE_BYTES))
    while size := await loop.sock_recv_into(source, view):
        await loop.sock_sendall(target, view[:size])
        # Neither call waits while there is something to do, and others have something to do, too.
        await asyncio.sleep(0)
