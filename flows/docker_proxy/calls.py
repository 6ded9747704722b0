"""The calls of the Docker API that tasks need, a row each; what has no row is nobody's to make.

A row is the whole of what a call may say. What is sent on is written from it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flows.docker_proxy import answers, bodies, queries
from flows.docker_proxy.answers import Told
from flows.docker_proxy.names import CONTAINER, ID, IMAGE, RUN_VOLUME, VOLUME
from flows.docker_proxy.queries import Query
from flows.docker_proxy.refused import Refused, shown
from flows.docker_proxy.registry_auth import rewritten
from flows.docker_proxy.strict_json import Exact, held, parse
from flows.docker_proxy.target import Target
from flows.spec import TASK_NETWORK

# By the value of the call's JSON, as other models are for other objects of one address.
Choice = Callable[[Any], type[Exact]]


@dataclass(frozen=True, slots=True)
class Call:
    """`path` is a pattern of the whole path without the API's version; its groups are named after
    what `rights` looks at. `body` chooses the model of what is said; None: nothing may be said.

    `is_stream`: its answer may go on for as long as a task, and no other request follows it on its
    connection. `is_upgradable`: its connection may become one for bytes alone. `is_for_registry`:
    it may carry a log-in. `told` is what is passed on of its answer; None: all of it.
    """

    method: str
    path: str
    query: type[Query] = Query
    body: Choice | None = None
    is_stream: bool = False
    is_upgradable: bool = False
    is_for_registry: bool = False
    told: Told | None = None
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(self.path))


class Said(NamedTuple):
    """A request that has a row, as it was understood."""

    call: Call
    path: str
    names: Mapping[str, str]
    query: Query
    body: Exact | None
    version: str = ""
    registry_auth: str = ""

    @property
    def target(self) -> str:
        return f"{self.version}{self.path}{self.query.encoded()}"


def _container(value: Any) -> type[Exact]:
    # The helper alone keeps its log as a file, and needs no network.
    host = value.get("HostConfig") if isinstance(value, dict) else None
    is_helper = isinstance(host, dict) and not {"UsernsMode", "LogConfig"}.isdisjoint(host)
    return bodies.Helper if is_helper else bodies.Container


def _volume(value: Any) -> type[Exact]:
    is_plain = not isinstance(value, dict) or {"Driver", "DriverOpts"}.isdisjoint(value)
    return bodies.CacheVolume if is_plain else bodies.RunVolume


_BOX = rf"/containers/(?P<container>{CONTAINER}|{ID})"

CALLS = (
    Call("GET", "/_ping"),
    # The platform of the host, for the helper's image.
    Call("GET", "/version"),
    # A look at an image here, and the question to its registry who may read it.
    Call("GET", rf"/images/{IMAGE}/json"),
    Call("GET", rf"/distribution/{IMAGE}/json", is_for_registry=True),
    Call("POST", "/images/create", queries.Pull, is_stream=True, is_for_registry=True),
    Call("POST", "/containers/create", queries.Create, _container),
    Call("GET", "/containers/json", queries.ContainerListing, told=answers.containers),
    Call("GET", rf"{_BOX}/json"),
    Call("GET", rf"{_BOX}/changes"),
    Call("GET", rf"{_BOX}/logs", queries.Logs, is_stream=True),
    Call("GET", rf"{_BOX}/stats", queries.Stats, is_stream=True),
    Call("POST", rf"{_BOX}/attach", queries.Attach, is_stream=True, is_upgradable=True),
    Call("POST", rf"{_BOX}/start"),
    Call("POST", rf"{_BOX}/wait"),
    Call("POST", rf"{_BOX}/stop", queries.Stop),
    Call("POST", rf"{_BOX}/pause"),
    Call("POST", rf"{_BOX}/unpause"),
    Call("DELETE", _BOX, queries.RemoveContainer),
    Call("GET", "/volumes", queries.Listing, told=answers.volumes),
    Call("GET", rf"/volumes/{VOLUME}", told=answers.volume),
    # Of one that exists, the answer is what it is.
    Call("POST", "/volumes/create", body=_volume, told=answers.volume),
    Call("DELETE", rf"/volumes/(?:{RUN_VOLUME}|(?P<removable>{VOLUME}))"),
    Call("GET", "/networks", queries.NetworkListing),
    Call("GET", f"/networks/{TASK_NETWORK}"),
    Call("POST", "/networks/create", body=lambda _: bodies.TaskNetwork),
    Call("GET", "/events", queries.Events, is_stream=True),
)


def understood(
    method: str, target: Target, body: bytes, media_type: str, registry_auth: str
) -> Said:
    """The row and the values of a request. Raises `Refused` for all that tasks do not ask."""
    call, names = _row(method, target.path)
    what = f"{method} {target.path}"
    query = held(call.query, dict(target.query), what)
    if registry_auth and not call.is_for_registry:
        registry_auth = ""
    return Said(
        call,
        target.path,
        names,
        query,
        _body(call, body, media_type, what),
        target.version,
        rewritten(registry_auth) if registry_auth else "",
    )


def _row(method: str, path: str) -> tuple[Call, Mapping[str, str]]:
    for call in CALLS:
        if call.method == method and (match := call.pattern.fullmatch(path)):
            return call, {key: value for key, value in match.groupdict().items() if value}
    raise Refused(f"refuses {shown(f'{method} {path}')}: it is no call that a task needs")


def _body(call: Call, body: bytes, media_type: str, what: str) -> Exact | None:
    if call.body is None:
        if body:
            raise Refused(f"refuses {what}: it takes no body")
        return None
    if media_type != "application/json":
        raise Refused(f"refuses {what}: its body is not application/json")
    value = parse(body, "the body")
    return held(call.body(value), value, what)
