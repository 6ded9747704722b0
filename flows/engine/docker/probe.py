"""Requests that change nothing on an engine, to find what a proxy before it refuses or cuts."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import docker
import requests

from flows.engine.docker.calls import (
    Call,
    Refusal,
    broken_off,
    calls,
    events,
    is_error,
    refusal,
    words,
)
from flows.engine.docker.client import Connection, require_ok, url
from flows.engine.docker.errors import translated
from flows.engine.images.auth import Login
from flows.errors import EngineUnavailable

_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Quiet:
    """How long a connection on which nothing is said lasted, and whether its end came through."""

    seconds: float
    is_ended: bool


def refused_calls(now: float) -> list[Refusal]:
    """The calls that do not get through to the engine."""
    with _connected() as api:
        found = (_refusal(api, call) for call in calls(now))
        return [each for each in found if each]


def quiet(now: float, seconds: float) -> Quiet:
    """Keep a connection on which nothing is said for about so long. Raises `EngineError`."""
    with _connected() as api:
        began, is_ended = time.monotonic(), False
        path = events(now, now + seconds)
        try:
            with api.get(url(api, path), stream=True, timeout=seconds + _SECONDS) as answer:
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
    with _connected() as api:
        answer = api.post(url(api, "/auth"), json=login.as_auth_config(), timeout=_SECONDS)
        if answer.ok:
            return None
        said = words(answer.text)
        if answer.status_code == 403 or not is_error(answer.text):
            raise EngineUnavailable(said)
        return said.replace(login.password, "***")


def _refusal(api: docker.APIClient, call: Call) -> Refusal | None:
    try:
        answer = api.request(call.method, url(api, call.path), json=call.body, timeout=_SECONDS)
    except requests.exceptions.RequestException as error:
        return broken_off(call, error)
    return refusal(call, answer.status_code, answer.text)


@contextmanager
def _connected() -> Iterator[docker.APIClient]:
    with translated("answering doctor"), closing(Connection()) as connection:
        yield connection.api
