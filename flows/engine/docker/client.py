"""Connections to an engine: its address, the version of its API, and calls in threads."""

import os
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, TypeVar

import docker
import docker.errors
import requests
from docker.constants import DEFAULT_DOCKER_API_VERSION
from prefect_docker import DockerHost

from flows.engine.docker.errors import address, translated
from flows.engine.types import Pong
from flows.threads import in_thread

T = TypeVar("T")
_PING_SECONDS = 10.0


class Connection:
    """An engine, by default the one of `DOCKER_HOST`, which is connected to at first use."""

    def __init__(self, host: DockerHost | None = None) -> None:
        self._given = host or DockerHost()

    @cached_property
    def host(self) -> DockerHost:
        """The engine's block, with the version of its API."""
        return negotiated(self._given)

    @cached_property
    def client(self) -> docker.DockerClient:
        """The client that most calls share."""
        return self.connect()

    @property
    def api(self) -> docker.APIClient:
        """That client's requests."""
        return self.client.api

    @cached_property
    def api_version(self) -> tuple[int, ...]:
        """Such as (1, 41)."""
        return tuple(map(int, str(self.api.api_version).split(".")))

    def connect(self) -> docker.DockerClient:
        """A client with connections of its own, which the caller closes."""
        client: docker.DockerClient = self.host.get_client()
        if is_local(client):
            # No proxy and no password is for a socket; requests would look for them every time.
            client.api.trust_env = False
        return client

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


def negotiated(host: DockerHost) -> DockerHost:
    """`host` with its engine's API version, by `/_ping`, in place of `auto`, which asks every time.

    docker-py asks for the versions of all parts, for which an engine starts two programs.
    """
    if host.version != "auto":
        return host
    with closing(_at(host, DEFAULT_DOCKER_API_VERSION).get_client()) as client:
        answer = client.api.get(f"{client.api.base_url}/_ping", timeout=client.api.timeout)
        try:
            require_ok(answer)
        except docker.errors.APIError as error:
            # No answer to what the caller is about to ask.
            raise docker.errors.DockerException(f"it refused to be pinged: {error}") from error
    if (version := answer.headers.get("Api-Version")) is None:
        raise docker.errors.DockerException("what answers there is no Docker Engine")
    return _at(host, version)


def ping(client: docker.DockerClient) -> Pong:
    """Who answers, by the headers of `GET /_ping`."""
    asked_at = datetime.now(UTC)
    headers = client.api.get(f"{client.api.base_url}/_ping", timeout=_PING_SECONDS).headers
    date = headers.get("Date")
    return Pong(
        address=address(),
        is_local=is_local(client),
        server=headers.get("Server", "unknown"),
        api_version=str(client.api.api_version),
        now=parsedate_to_datetime(date) if date else None,
        asked_at=asked_at,
    )


def url(api: docker.APIClient, path: str) -> str:
    """The address of `path` in the version of the API that is spoken."""
    return f"{api.base_url}/v{api.api_version}{path}"


def shut_down(connection: Any) -> None:
    """End a connection that another thread reads, which a close alone does not wake.

    By a duplicate: the layers of a TLS connection are in that thread's use.
    """
    gone = (OSError, ValueError, AttributeError)
    with suppress(*gone), socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)


def is_local(client: docker.DockerClient) -> bool:
    """Whether the engine is at the other end of a socket of this host, with nobody in between."""
    return str(client.api.base_url).startswith("http+docker://localhost")


def require_ok(answer: requests.Response) -> None:
    """Raise docker-py's error for an answer that is one."""
    try:
        answer.raise_for_status()
    except requests.HTTPError as error:
        docker.errors.create_api_error_from_http_exception(error)


def _at(host: DockerHost, version: Any) -> DockerHost:
    return host.model_copy(update={"version": version})
