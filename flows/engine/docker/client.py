"""Connections to an engine: its address, API version, calls in threads, and errors translated."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from typing import Any, TypeVar

import docker
import docker.errors
import requests
import urllib3.exceptions
from docker.constants import DEFAULT_DOCKER_API_VERSION, DEFAULT_UNIX_SOCKET
from prefect_docker import DockerHost

from flows.engine.docker.answers import MAX_READ_BYTES, bound_errors, require_ok
from flows.engine.types import Pong
from flows.errors import (
    ContainerGone,
    EngineError,
    EngineRefused,
    EngineSilent,
    EngineUnavailable,
)
from flows.masking import Masker
from flows.text import one_line
from flows.threads import in_thread

T = TypeVar("T")
_PING_SECONDS = 10.0
_MAX_SAID = 500
# Less than what is read, where a secret may be cut.
_MAX_MASKED = MAX_READ_BYTES // 2
# From Engine 28 on, other words come first.
_NO_NETWORK = re.compile(r"\bnetwork \S+ not found")
# What a proxy answers for an engine that is away, and an engine that cannot reach its own parts.
_PROXYS_OWN = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
# docker-py lets requests' and plain socket errors through and, where it reads a stream raw,
# urllib3's.
_UNAVAILABLE = (
    docker.errors.DockerException,
    docker.errors.StreamParseError,
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    urllib3.exceptions.ProxySchemeUnsupported,
    OSError,
)


class Connection:
    """An engine, by default the one of `DOCKER_HOST`, which is connected to at first use."""

    def __init__(self, host: DockerHost | None = None) -> None:
        self._given = host or DockerHost()

    @cached_property
    def host(self) -> "EngineHost":
        """What prefect-docker takes for the engine's block, with the version of its API."""
        return EngineHost(negotiated(self._given))

    @cached_property
    def client(self) -> docker.DockerClient:
        """The client that most calls share."""
        return self.connect()

    @property
    def api(self) -> docker.APIClient:
        return self.client.api

    @cached_property
    def api_version(self) -> tuple[int, ...]:
        """Such as (1, 41)."""
        return tuple(map(int, str(self.api.api_version).split(".")))

    def connect(self) -> docker.DockerClient:
        """A client with connections of its own, which the caller closes."""
        return self.host.get_client()

    def close(self) -> None:
        """End what is connected."""
        if "client" in self.__dict__:
            self.client.close()

    async def call(
        self, doing: str, function: Callable[[docker.APIClient], T], container: str | None = None
    ) -> T:
        """What `function` returns, run in a thread; the rest is as for `translated`."""
        with translated(doing, container):
            return await in_thread(lambda: function(self.api))


@dataclass(frozen=True, slots=True)
class EngineHost:
    """A block of prefect-docker's, whose clients read errors in bounds."""

    block: DockerHost

    def get_client(self) -> docker.DockerClient:
        """A client with connections of its own, which the caller closes."""
        client: docker.DockerClient = self.block.get_client()
        bound_errors(client)
        if is_local(client):
            # No proxy and no password is for a socket; requests would look for them every time.
            client.api.trust_env = False
        return client


def negotiated(host: DockerHost) -> DockerHost:
    """`host` with its engine's API version, by `/_ping`, in place of `auto`, which asks every time.

    docker-py asks for the versions of all parts, for which an engine starts two programs.
    """
    if host.version != "auto":
        return host
    with closing(EngineHost(_at(host, DEFAULT_DOCKER_API_VERSION)).get_client()) as client:
        try:
            answer = pinged(client.api)
        except docker.errors.APIError as error:
            # No answer to what the caller is about to ask.
            raise docker.errors.DockerException(f"it refused to be pinged: {error}") from error
    if (version := answer.headers.get("Api-Version")) is None:
        raise docker.errors.DockerException("what answers there is no Docker Engine")
    return _at(host, version)


def pinged(api: docker.APIClient) -> requests.Response:
    """The answer to `GET /_ping`, with as much time as any other. Raises docker-py's errors."""
    answer: requests.Response = api.get(f"{api.base_url}/_ping", timeout=api.timeout)
    require_ok(answer)
    return answer


def server_time(answer: requests.Response) -> datetime | None:
    """Its header `Date`, where it has one: whole seconds."""
    date = answer.headers.get("Date")
    return parsedate_to_datetime(date) if date else None


def ping(client: docker.DockerClient) -> Pong:
    """Who answers, by the headers of `GET /_ping`; a person waits for it."""
    asked_at = datetime.now(UTC)
    answer = client.api.get(f"{client.api.base_url}/_ping", timeout=_PING_SECONDS)
    return Pong(
        address=address(),
        is_local=is_local(client),
        server=answer.headers.get("Server", "unknown"),
        api_version=str(client.api.api_version),
        now=server_time(answer),
        asked_at=asked_at,
    )


def url(api: docker.APIClient, path: str) -> str:
    """The address of `path` in the version of the API that is spoken."""
    return f"{api.base_url}/v{api.api_version}{path}"


def is_local(client: docker.DockerClient) -> bool:
    """Whether the engine is at the other end of a socket of this host, with nobody in between."""
    return str(client.api.base_url).startswith("http+docker://localhost")


def _at(host: DockerHost, version: Any) -> DockerHost:
    return host.model_copy(update={"version": version})


class NotFound(EngineError):
    """The engine has no such object."""


@contextmanager
def translated(doing: str, container: str | None = None) -> Iterator[None]:
    """Raise only `EngineError`s from the block; `doing` completes "Docker failed while …".

    Where it needs a `container`, one that is missing was removed by somebody else.
    """
    try:
        yield
    except docker.errors.NotFound as error:
        if container is not None and not _NO_NETWORK.search(said(error)):
            raise ContainerGone(
                f"the container {container} is gone: somebody else removed it while it was in use"
            ) from error
        raise NotFound(f"Docker has no such object while {doing}: {said(error)}") from error
    except docker.errors.APIError as error:
        raise _api_error(error, doing) from error
    except _UNAVAILABLE as error:
        raise EngineSilent(
            f"Docker at {address()} does not answer while {doing}: {_reason(error)}; check that "
            "the engine runs, that DOCKER_HOST names it, and that this worker may use it"
        ) from error


def address() -> str:
    """Where the engine of this process is."""
    return os.environ.get("DOCKER_HOST") or DEFAULT_UNIX_SOCKET.replace("http+unix", "unix")


def said(error: docker.errors.APIError, secrets: Sequence[str] = ()) -> str:
    """The engine's own words, on one line, without the client's wrapping and without `secrets`."""
    words = Masker(secrets).beginning(str(error.explanation or error), _MAX_MASKED)
    return one_line(words, _MAX_SAID).rstrip(".")


def _api_error(error: docker.errors.APIError, doing: str) -> EngineError:
    status, words = error.status_code, said(error)
    if status == 409 and "is already in use" in words:
        # A container that is not this task's: no fault of the payload, so nothing refused.
        return EngineError(f"Docker refused while {doing}: {words}")
    if status is not None and 400 <= status < 500:
        advice = (
            "lower task.container.resources.cpus, or send the task to a larger host"
            if "CPUs" in words
            else "task.container asks for what this engine will not do"
        )
        return EngineRefused(f"Docker refused while {doing}: {words}; {advice}")
    kind = EngineSilent if status in _PROXYS_OWN else EngineUnavailable
    return kind(f"Docker failed while {doing}: {words}")


def _reason(error: BaseException) -> str:
    """What the system said, which the clients wrap several times over; else their own words."""
    reason = str(next(iter(error.args), type(error).__name__))
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError):
            reason = inner.strerror or str(inner)
        wrapped = (argument for argument in inner.args if isinstance(argument, BaseException))
        inner = next(wrapped, inner.__cause__)
    return reason.rstrip(".")
