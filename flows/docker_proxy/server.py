"""Accept connections, read requests in bounds, and send on what `calls` and `rights` let pass."""

import asyncio
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import NamedTuple

import h11

from flows.docker_proxy.answers import Told
from flows.docker_proxy.calls import Said, understood
from flows.docker_proxy.engine import HEADERS, Engine, answer_of, copy, next_event, send
from flows.docker_proxy.refused import Refused, shown
from flows.docker_proxy.rights import Rights
from flows.docker_proxy.settings import Settings
from flows.docker_proxy.target import taken_apart

# Longer than the pauses between two requests of one run, so that no request meets a closing door.
IDLE_SECONDS = 600.0
REQUEST_SECONDS = 30.0
MAX_CONNECTIONS = 1024
MAX_HEAD_BYTES = 64 * 1024
# A payload may have half of it.
MAX_BODY_BYTES = 1024 * 1024
_DRAIN_SECONDS = 2.0
_LOG = logging.getLogger(__name__)


class Request(NamedTuple):
    """A whole request, as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


async def serve(listener: socket.socket, settings: Settings) -> None:
    """Serve whoever connects, for ever."""
    listener.setblocking(False)
    engine = Engine(settings.engine_socket)
    rights = Rights(engine, settings)
    free = asyncio.Semaphore(MAX_CONNECTIONS)
    tasks: set[asyncio.Task[None]] = set()
    while True:
        await free.acquire()
        client = await _accepted(listener)
        task = asyncio.create_task(_Conversation(client, engine, rights).hold())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(_tell_failure)
        task.add_done_callback(lambda _: free.release())


def _tell_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        _LOG.error("docker-proxy broke off a request", exc_info=error)


async def _accepted(listener: socket.socket) -> socket.socket:
    while True:
        try:
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
        except OSError as error:
            # Gone before it was taken, or there are no descriptors left for a while.
            _LOG.warning("docker-proxy cannot take a connection: %s", error)
            await asyncio.sleep(0.1)
            continue
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # With waits as long as a task, peers that vanished are found by this alone.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return client


class _Conversation:
    """One client's connection, a request after the other."""

    def __init__(self, client: socket.socket, engine: Engine, rights: Rights) -> None:
        self._client = client
        self._engine = engine
        self._rights = rights
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        # Whether the answer to the present request has one.
        self._has_body = True

    async def hold(self) -> None:
        """Until one of both ends it."""
        with self._client:
            try:
                while await self._answer_next():
                    self._http.start_next_cycle()
            except (OSError, h11.ProtocolError, TimeoutError) as error:
                _LOG.info("docker-proxy lost a connection: %s", shown(str(error)))

    async def _answer_next(self) -> bool:
        """Answer one request; whether another may follow."""
        try:
            if (request := await self._read()) is None:
                return False
            with self._ended_with_client():
                await self._answer(request)
        except Refused as refused:
            _LOG.info("%d: %s", refused.status, refused.sentence)
            await self._refuse(refused)
        except (OSError, h11.ProtocolError, TimeoutError):
            raise
        except Exception:  # noqa: BLE001 - a fault of its own is told, too
            _LOG.exception("docker-proxy failed at a request")
            why = "failed at this request; its log has the reason"
            await self._refuse(Refused(why, HTTPStatus.INTERNAL_SERVER_ERROR))
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _read(self) -> Request | None:
        """The next request; None where the client ends the conversation."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                first = await loop.sock_recv(self._client, MAX_HEAD_BYTES)
        except TimeoutError:
            return None
        if not first:
            return None
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                self._http.receive_data(first)
                return await self._request()
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            raise Refused(f"cannot read this request: {error}", status) from error
        except TimeoutError as error:
            status = HTTPStatus.REQUEST_TIMEOUT
            raise Refused("waited too long for the rest of a request", status) from error

    async def _request(self) -> Request:
        head, body = None, bytearray()
        while True:
            event = await next_event(self._client, self._http)
            if isinstance(event, h11.Request):
                self._has_body = event.method != b"HEAD"
                head = _head(event)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head:
                if self._http.trailing_data[0]:
                    raise Refused("takes one request at a time", HTTPStatus.BAD_REQUEST)
                return head._replace(body=bytes(body))
            else:
                raise h11.RemoteProtocolError("it ended half-way")

    async def _answer(self, request: Request) -> None:
        headers = request.headers
        said = understood(
            request.method,
            taken_apart(request.target),
            request.body,
            headers.get("content-type", "").partition(";")[0].strip().lower(),
            headers.get("x-registry-auth", ""),
        )
        await self._rights.require(said)
        with self._engine.opened() as upstream:
            await self._engine.connect(upstream)
            http = h11.Connection(h11.CLIENT)
            await send(upstream, _written(said, http, is_upgrade="upgrade" in headers))
            if said.call.is_stream:
                # Whatever the engine answers is the last on both connections.
                self._http.send_failed()
                await copy(upstream, self._client)
            elif said.call.told:
                await self._tell(upstream, http, said.call.told)
            else:
                await self._pass_on(upstream, http)

    async def _tell(self, upstream: socket.socket, http: h11.Connection, told: Told) -> None:
        """What of the engine's answer is told."""
        try:
            answer = await answer_of(upstream, http)
            is_error = answer.status >= HTTPStatus.BAD_REQUEST
            body = answer.body if is_error else json.dumps(told(answer.parsed())).encode()
        except (h11.RemoteProtocolError, LookupError, TypeError, AttributeError) as error:
            why = "lost the engine, or cannot read its answer"
            raise Refused(why, HTTPStatus.BAD_GATEWAY) from error
        await self._send(*_json(answer.status, body))

    async def _pass_on(self, upstream: socket.socket, http: h11.Connection) -> None:
        """The engine's answer, after which the client may ask again."""
        try:
            while True:
                event = await next_event(upstream, http)
                if isinstance(event, h11.Response):
                    event = _kept_open(event)
                elif not isinstance(event, h11.Data | h11.EndOfMessage):
                    continue
                await self._send(event)
                if isinstance(event, h11.EndOfMessage):
                    return
        except h11.RemoteProtocolError as error:
            if self._http.our_state is not h11.SEND_RESPONSE:
                raise
            status = HTTPStatus.BAD_GATEWAY
            raise Refused("lost the engine before it answered", status) from error

    async def _refuse(self, refused: Refused) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        is_last = self._http.their_state is not h11.DONE or self._http.trailing_data[0]
        response, *body = _json(refused.status, refused.body, ends=bool(is_last))
        await self._send(response, *(body if self._has_body else body[-1:]))
        if self._http.their_state is not h11.DONE:
            await self._drain()

    async def _drain(self) -> None:
        """Take what is still on its way: a close at once would take the answer from its reader."""
        loop = asyncio.get_running_loop()
        self._client.shutdown(socket.SHUT_WR)
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while await loop.sock_recv(self._client, MAX_HEAD_BYTES):
                    pass

    async def _send(self, *events: h11.Event) -> None:
        data = b"".join(self._http.send(event) or b"" for event in events)
        if data:
            await send(self._client, data)

    @contextmanager
    def _ended_with_client(self) -> Iterator[None]:
        """Nobody waits for the answer to one who has gone: the engine's work for it ends, too. Who
        sends more before it is answered is none of ours."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        loop.add_reader(self._client, task.cancel)
        try:
            yield
        finally:
            loop.remove_reader(self._client)


def _json(status: int, body: bytes, *, ends: bool = False) -> tuple[h11.Event, ...]:
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    if ends:
        headers.append(("Connection", "close"))
    response = h11.Response(status_code=status, headers=headers)
    return response, h11.Data(data=body), h11.EndOfMessage()


def _head(event: h11.Request) -> Request:
    if event.http_version != b"1.1":
        raise Refused("speaks HTTP/1.1 alone", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
    if len(headers) < len(event.headers):
        raise Refused("refuses a header that is there twice", HTTPStatus.BAD_REQUEST)
    if "transfer-encoding" in headers:
        raise Refused("refuses a body whose length is not known before it comes")
    # h11 has seen to it that it is a number, and that no more comes.
    if int(headers.get("content-length", 0)) > MAX_BODY_BYTES:
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        raise Refused("takes a body of 1 MiB at most", status)
    return Request(event.method.decode("ascii"), event.target.decode("ascii"), headers, b"")


def _written(said: Said, http: h11.Connection, *, is_upgrade: bool) -> bytes:
    """The request as the engine gets it."""
    headers = list(HEADERS)
    if is_upgrade and said.call.is_upgradable:
        headers = [*HEADERS[:-1], ("Connection", "Upgrade"), ("Upgrade", "tcp")]
    if said.registry_auth:
        headers.append(("X-Registry-Auth", said.registry_auth))
    body = said.body.as_json().encode() if said.body is not None else b""
    if body:
        headers.append(("Content-Type", "application/json"))
    if said.call.method != "GET":
        headers.append(("Content-Length", str(len(body))))
    request = h11.Request(method=said.call.method, target=said.target, headers=headers)
    events = [request, h11.Data(data=body), h11.EndOfMessage()]
    return b"".join(http.send(event) or b"" for event in events)


def _kept_open(event: h11.Response) -> h11.Response:
    """Without what was about the connection to the engine."""
    headers = [each for each in event.headers if each[0] != b"connection"]
    return h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
