"""Find a proxy that refuses or cuts a run's requests to the engine, by harmless forms of each.

Each asks for what does not exist, so the engine's own answer is known; any other answer comes from
what stands between, and tells what that is.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import urlencode

import docker
import requests

from flows.engine.docker.answers import require_ok
from flows.engine.docker.client import Connection, translated, url
from flows.engine.docker.network import ensure_task_network
from flows.engine.images.auth import Login
from flows.errors import EngineUnavailable
from flows.spec import EVERYBODY, LABEL_CACHE, LABEL_CACHE_OWNER, LABEL_JOB_ID, NAME_PREFIX

_SECONDS = 10.0
# A container that no run can ever have.
_NO_JOB = "00000000-0000-4000-8000-000000000000"
_NOBODY = f"{NAME_PREFIX}{_NO_JOB}-1"
# Nothing listens there, on any host: the engine is refused before it fetches anything.
_NOWHERE = "127.0.0.1:9/moonmind/doctor"
_NO_CONTAINER = {
    "Image": f"{_NOWHERE}:none",
    "Labels": {LABEL_JOB_ID: _NO_JOB},
    "HostConfig": {"NetworkMode": "none", "CapDrop": ["NET_RAW"]},
}
# Too short for a name.
_NO_CACHE = {"Name": "x", "Labels": {LABEL_CACHE: "true", LABEL_CACHE_OWNER: EVERYBODY}}


class Obstacle(Enum):
    """What stands between this host and an engine; the value is how to mend it."""

    FORBIDDEN = "allow these calls in the proxy; the docker-proxy of docker-compose.yaml does"
    LOG_IN = (
        "this is a web proxy that wants a log-in: add the engine's host to NO_PROXY in the "
        "environment of the worker"
    )
    NO_ENGINE = (
        "the proxy reaches no engine: see its log, that the engine runs, and that the proxy may "
        "use the engine's socket"
    )
    BROKEN = (
        "see in the log of the proxy, or of the engine where there is none, why it broke off or "
        "kept silent; a proxy needs the patience of a task that is quiet for as long as it runs"
    )
    STRANGE = "see whether DOCKER_HOST names an engine, and the log of what stands before it"


_OBSTACLES = {
    401: Obstacle.FORBIDDEN,
    403: Obstacle.FORBIDDEN,
    404: Obstacle.FORBIDDEN,
    405: Obstacle.FORBIDDEN,
    501: Obstacle.FORBIDDEN,
    407: Obstacle.LOG_IN,
    502: Obstacle.NO_ENGINE,
    503: Obstacle.NO_ENGINE,
    504: Obstacle.NO_ENGINE,
}


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of request that tasks need; it asks for what does not exist, or for a listing."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    is_listing: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path.partition('?')[0].replace(_NOBODY, '<name>')}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that did not get through, and what was said instead."""

    call: Call
    obstacle: Obstacle
    words: str


def _calls(now: float) -> list[Call]:
    """Every kind of request that a run or a sweep makes, about things that do not exist."""
    ours = urlencode({"filters": json.dumps({"label": [LABEL_JOB_ID]})})
    builtin = urlencode({"filters": json.dumps({"type": ["builtin"]})})
    box = f"/containers/{_NOBODY}"
    return [
        Call("GET", f"/images/{_NOWHERE}:none/json"),
        Call("GET", f"/distribution/{_NOWHERE}:none/json"),
        Call("POST", f"/images/create?fromImage={_NOWHERE}&tag=none"),
        Call("POST", f"/containers/create?name={_NOBODY}", _NO_CONTAINER),
        *(Call("GET", f"{box}/{what}") for what in ("json", "changes")),
        Call("GET", f"{box}/logs?stdout=1"),
        Call("GET", f"{box}/stats?stream=0"),
        Call("POST", f"{box}/attach?stdout=1&stream=1"),
        *(Call("POST", f"{box}/{what}") for what in ("start", "wait", "stop")),
        Call("DELETE", box),
        Call("GET", f"/volumes/{_NOBODY}"),
        Call("POST", "/volumes/create", _NO_CACHE),
        Call("DELETE", f"/volumes/{_NOBODY}-workspace"),
        Call("GET", f"/containers/json?limit=-1&all=1&size=0&trunc_cmd=0&{ours}", is_listing=True),
        Call("GET", f"/volumes?{ours}", is_listing=True),
        Call("GET", f"/networks?{builtin}", is_listing=True),
        Call("GET", _events(now - 1, now), is_listing=True),
    ]


def _events(since: float, until: float) -> str:
    """The path of a question that the engine answers with nothing, once `until` is over."""
    about = {"container": [_NOBODY], "event": ["die"], "type": ["container"]}
    filters = json.dumps(about, separators=(",", ":"))
    times = {"since": f"{since:.3f}", "until": f"{until:.3f}"}
    return f"/events?{urlencode(times | {'filters': filters})}"


def refusal(call: Call, status: int, text: str) -> Refusal | None:
    """What an answer that is not the engine's own means; None for one that is."""
    if _is_engines(call, status, text):
        return None
    return Refusal(call, _OBSTACLES.get(status, Obstacle.STRANGE), f"{status}: {_words(text)}")


def _is_error(text: str) -> bool:
    """Whether an answer tells of an error as the engine does."""
    # A pull tells in the last of many lines what became of it.
    lines = text.strip().splitlines() or [""]
    return not {"message", "error"}.isdisjoint(_object(lines[-1]))


def _words(text: str) -> str:
    """What an answer says, on one line; the engine says it under `message`."""
    said = _object(text).get("message") or re.sub(r"<[^<>]*>", " ", text)
    return " ".join(str(said).split())[:200] or "no word"


def _is_engines(call: Call, status: int, text: str) -> bool:
    if call.is_listing:
        return status == 200 and (not text.strip() or _is_json(text))
    if status == 404:
        return "no such" in text.lower()
    is_let_through = _OBSTACLES.get(status) not in (Obstacle.FORBIDDEN, Obstacle.LOG_IN)
    return is_let_through and _is_error(text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text) if _is_json(text) else None
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Quiet:
    """How long a connection on which nothing is said lasted, and whether its end came through."""

    seconds: float
    is_ended: bool


def refused_calls(now: float) -> list[Refusal]:
    """The calls that do not get through to the engine."""
    with _connected() as api:
        found = (_refusal_of(api, call) for call in _calls(now))
        return [each for each in found if each]


def task_network() -> str:
    """The interface of the network that tasks share, which is made where it is missing. Raises
    `EngineError`."""
    with _connected() as api:
        return ensure_task_network(api)


def quiet(now: float, seconds: float) -> Quiet:
    """Keep a connection on which nothing is said for about so long. Raises `EngineError`."""
    with _connected() as api:
        began, is_ended = time.monotonic(), False
        address = url(api, _events(now, now + seconds))
        # Or forgotten on its way; when, is what is asked.
        cut = (
            requests.exceptions.ChunkedEncodingError,
            requests.ConnectionError,
            requests.ReadTimeout,
        )
        with suppress(*cut), api.get(address, stream=True, timeout=seconds + _SECONDS) as answer:
            # A proxy that waited for the engine in vain says so.
            if answer.status_code != 504:
                require_ok(answer)
                is_ended = not any(answer.iter_content(1024))
        return Quiet(time.monotonic() - began, is_ended)


def refused_login(login: Login) -> str | None:
    """Why the engine cannot log in, if so. Raises `EngineUnavailable` where it cannot be tried."""
    with _connected() as api:
        answer = api.post(url(api, "/auth"), json=login.as_auth_config(), timeout=_SECONDS)
        if answer.ok:
            return None
        said = _words(answer.text)
        if answer.status_code == 403 or not _is_error(answer.text):
            raise EngineUnavailable(said)
        return said.replace(login.password, "***")


def _refusal_of(api: docker.APIClient, call: Call) -> Refusal | None:
    try:
        answer = api.request(call.method, url(api, call.path), json=call.body, timeout=_SECONDS)
    except requests.exceptions.RequestException as error:
        return Refusal(call, Obstacle.BROKEN, f"no answer: {type(error).__name__}")
    return refusal(call, answer.status_code, answer.text)


@contextmanager
def _connected() -> Iterator[docker.APIClient]:
    with translated("answering doctor"), closing(Connection()) as connection:
        yield connection.api
