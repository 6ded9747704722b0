"""What an engine's own events tell of one container."""

import json
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import docker

from flows.engine.docker.answers import require_ok
from flows.engine.docker.client import pinged, server_time, translated, url
from flows.engine.types import Evidence

# A stop from outside shows in the signals it sends.
_ACTIONS = ("kill", "oom", "die", "destroy")


def read_evidence(client: docker.DockerClient, name: str, since: datetime) -> Evidence:
    """What happened to the container `name` from `since` until now. Raises `EngineError`.

    `since` is best a time that the engine told. After an inspect of a stopped container its end is
    on record.
    """
    with translated("reading what happened to the container"):
        start = since.timestamp()
        # The engine refuses a window that ends before it begins.
        window = {"since": f"{start:.6f}", "until": f"{max(_now(client), start):.6f}"}
        filters = {"container": [name], "event": _ACTIONS, "type": ["container"]}
        query = window | {"filters": json.dumps(filters, separators=(",", ":"))}
        # docker-py's own `events` waits without limit and takes a cut connection for the end.
        api = client.api
        answer = api.get(url(api, "/events"), params=query, timeout=api.timeout)
        require_ok(answer)
        return evidence_of(name, map(json.loads, answer.text.splitlines()))


def evidence_of(name: str, events: Iterable[Mapping[str, Any]]) -> Evidence:
    """The evidence about the container `name` in events of `GET /events`."""
    # The engine's own filter takes a name for the beginning of one.
    own = [event for event in events if event["Actor"]["Attributes"].get("name") == name]
    actions = {event["Action"] for event in own}
    exit_codes = _numbers(own, "die", "exitCode")
    return Evidence(
        signals=_numbers(own, "kill", "signal"),
        oom="oom" in actions,
        exit_code=exit_codes[-1] if exit_codes else None,
        destroyed="destroy" in actions,
    )


def _numbers(events: Iterable[Mapping[str, Any]], action: str, key: str) -> tuple[int, ...]:
    return tuple(
        int(event["Actor"]["Attributes"][key]) for event in events if event["Action"] == action
    )


def _now(client: docker.DockerClient) -> float:
    """The engine's time. An end in its future makes it wait; one in its past hides the last
    events, so a clock that differs is not believed."""
    now, here = server_time(pinged(client.api)), time.time()
    told = now.timestamp() if now else here
    # The engine tells whole seconds.
    return here if told <= here < told + 2 else told + 1
