"""Questions to a Docker Engine, and to whatever stands before it, that change nothing there."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import docker
import requests
from prefect_docker import DockerHost

from flows.cli.doctor.calls import (
    Call,
    Refusal,
    broken_off,
    calls,
    events,
    is_error,
    refusal,
    words,
)
from flows.engine.docker.client import is_local, negotiated, require_ok
from flows.engine.docker.errors import address, translated
from flows.engine.images.auth import Login
from flows.errors import EngineUnavailable

_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Pong:
    """Who answers: the engine's own words in the headers of its answer to a ping."""

    address: str
    is_local: bool
    server: str
    api_version: str
    now: datetime | None
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class Quiet:
    """How long a connection on which nothing is said lasted, and whether its end came through."""

    seconds: float
    is_ended: bool


def ping() -> Pong:
    """Who answers. Raises `EngineError`."""
    with _client() as client:
        api, asked_at = client.api, datetime.now(UTC)
        answer = api.get(f"{api.base_url}/_ping", timeout=_SECONDS)
        headers = answer.headers
        date = headers.get("Date")
        return Pong(
            address=address(),
            is_local=is_local(client),
            server=headers.get("Server", "unknown"),
            api_version=str(api.api_version),
            now=parsedate_to_datetime(date) if date else None,
            asked_at=asked_at,
        )


def refused_calls(now: float) -> list[Refusal]:
    """The calls that do not get through to the engine."""
    with _client() as client:
        found = (_refusal(client.api, call) for call in calls(now))
        return [each for each in found if each]


def quiet(now: float, seconds: float) -> Quiet:
    """Keep a connection on which nothing is said for about so long. Raises `EngineError`."""
    with _client() as client:
        api, began = client.api, time.monotonic()
        url = f"{api.base_url}/v{api.api_version}{events(now, now + seconds)}"
        is_ended = False
        try:
            with api.get(url, stream=True, timeout=seconds + _SECONDS) as answer:
                # A proxy that waited for the engine in vain says so.
                if answer.status_code != 504:
                    require_ok(answer)
                    is_ended = not any(answer.iter_content(1024))
        except (
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.ConnectionError,
            requests.exceptions.ReadTimeout,
        ):
            # Cut, or forgotten; when, is what is asked.
            pass
        return Quiet(time.monotonic() - began, is_ended)


def refused_login(login: Login) -> str | None:
    """Why the engine cannot log in with it, None where it can.

    Raises `EngineUnavailable` where it cannot be tried.
    """
    with _client() as client:
        api = client.api
        answer = api.post(
            f"{api.base_url}/v{api.api_version}/auth", json=login.as_auth_config(), timeout=_SECONDS
        )
        if answer.ok:
            return None
        said = words(answer.text)
        if answer.status_code == 403 or not is_error(answer.text):
            raise EngineUnavailable(said)
        return said.replace(login.password, "***")


def _refusal(api: docker.APIClient, call: Call) -> Refusal | None:
    url = f"{api.base_url}/v{api.api_version}{call.path}"
    try:
        answer = api.request(call.method, url, json=call.body, timeout=_SECONDS)
    except requests.exceptions.RequestException as error:
        return broken_off(call, error)
    return refusal(call, answer.status_code, answer.text)


@contextmanager
def _client() -> Iterator[docker.DockerClient]:
    with translated("answering doctor"), closing(negotiated(DockerHost()).get_client()) as client:
        if is_local(client):
            client.api.trust_env = False
        yield client
