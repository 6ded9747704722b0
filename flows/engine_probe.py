"""Questions to a Docker Engine, and to whatever stands before it, that change nothing there."""

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

import docker
import requests
from prefect_docker import DockerHost

from flows.engine_connection import is_local, negotiated
from flows.engine_errors import address, translated
from flows.errors import EngineUnavailable
from flows.registries import Login
from flows.spec import LABEL_JOB_ID, NAME_PREFIX

_SECONDS = 10.0
# Of a container that no run can ever have.
_NOBODY = f"{NAME_PREFIX}00000000-0000-4000-8000-000000000000-1"
# Nothing listens there, on any host: the engine is refused before it fetches anything.
_NOWHERE = "127.0.0.1:9/moonmind/doctor"
_REFUSED = (401, 403, 405, 501)


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
class Call:
    """One kind of request that tasks need, in a form that does nothing."""

    method: str
    path: str
    body: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path.partition('?')[0].replace(_NOBODY, '<name>')}"


def calls(now: float) -> list[Call]:
    """Every kind of request that a run or a sweep makes, about things that do not exist."""
    ours = urlencode({"filters": json.dumps({"label": [LABEL_JOB_ID]})})
    box = f"/containers/{_NOBODY}"
    return [
        Call("GET", f"/images/{_NOWHERE}:none/json"),
        Call("GET", f"/distribution/{_NOWHERE}:none/json"),
        Call("POST", f"/images/create?fromImage={_NOWHERE}&tag=none"),
        Call("POST", f"/containers/create?name={_NOBODY}", {"Image": f"{_NOWHERE}:none"}),
        *(Call("GET", f"{box}/{what}") for what in ("json", "changes")),
        Call("GET", f"{box}/logs?stdout=1"),
        Call("GET", f"{box}/stats?stream=0"),
        Call("POST", f"{box}/attach?stdout=1&stream=1"),
        *(Call("POST", f"{box}/{what}") for what in ("start", "wait", "stop")),
        Call("DELETE", box),
        Call("GET", f"/volumes/{_NOBODY}"),
        # Too short for a name.
        Call("POST", "/volumes/create", {"Name": "-"}),
        Call("DELETE", f"/volumes/{_NOBODY}-workspace"),
        Call("GET", f"/containers/json?limit=-1&all=1&size=0&trunc_cmd=0&{ours}"),
        Call("GET", f"/volumes?{ours}"),
        Call("GET", f"/networks?{ours}"),
        Call("GET", _events(now - 1, now)),
    ]


def is_refused(status: int, text: str) -> bool:
    """Whether an answer is a proxy's and not the engine's, which looks for what does not exist."""
    return status in _REFUSED or (status == 404 and "no such" not in text.lower())


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


def refused_calls(now: float) -> list[str]:
    """The calls that do not get through to the engine, with the answer to each."""
    with _client() as client:
        found = ((call, _refusal(client.api, call)) for call in calls(now))
        return [f"{call} ({words})" for call, words in found if words]


def quiet_seconds(now: float, seconds: float) -> float:
    """How long a connection on which nothing is said lasts, at most about so long."""
    with _client() as client:
        api, began = client.api, time.monotonic()
        url = f"{api.base_url}/v{api.api_version}{_events(now, now + seconds)}"
        try:
            with api.get(url, stream=True, timeout=seconds + _SECONDS) as answer:
                answer.raise_for_status()
                for _ in answer.iter_content(1024):
                    pass
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError):
            # Cut; when, is what is asked.
            pass
        return time.monotonic() - began


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
        words = _words(answer)
        if answer.status_code == 403:
            raise EngineUnavailable(words)
        return words.replace(login.password, "***")


def _refusal(api: docker.APIClient, call: Call) -> str | None:
    url = f"{api.base_url}/v{api.api_version}{call.path}"
    try:
        answer = api.request(call.method, url, json=call.body, timeout=_SECONDS)
    except requests.exceptions.RequestException as error:
        return f"broken off: {type(error).__name__}"
    if is_refused(answer.status_code, answer.text):
        return f"{answer.status_code}: {_words(answer)}"
    return None


def _events(since: float, until: float) -> str:
    about = {"container": [_NOBODY], "event": ["die"], "type": ["container"]}
    filters = json.dumps(about, separators=(",", ":"))
    times = {"since": f"{since:.3f}", "until": f"{until:.3f}"}
    return f"/events?{urlencode(times | {'filters': filters})}"


def _words(answer: requests.Response) -> str:
    try:
        said = answer.json()["message"]
    except (ValueError, LookupError, TypeError):
        said = answer.text
    return " ".join(str(said).split())[:200]


@contextmanager
def _client() -> Iterator[docker.DockerClient]:
    with translated("answering doctor"), closing(negotiated(DockerHost()).get_client()) as client:
        if is_local(client):
            client.api.trust_env = False
        yield client
