"""Read from the engine's events what happened to one container."""

import json
import time
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

import docker
import requests

from flows.engine.docker.client import require_ok, url
from flows.engine.docker.errors import translated
from flows.engine.types import ACTIONS, Evidence, fold


def read_evidence(client: docker.DockerClient, name: str, since: datetime) -> Evidence:
    """What happened to the container `name` from `since`, by the engine's clock, until now.

    `since` is best a time the engine told, as `ContainerState.started_at`. After an inspect of a
    stopped container its end is on record. Raises `EngineError`.
    """
    with translated("reading what happened to the container"):
        start = since.timestamp()
        # The engine refuses a window that ends before it begins.
        window = {"since": f"{start:.6f}", "until": f"{max(_now(client), start):.6f}"}
        filters = {"container": [name], "event": ACTIONS, "type": ["container"]}
        # The docker-proxy lets exactly this query through, spaces and order included.
        query = window | {"filters": json.dumps(filters, separators=(",", ":"))}
        answer = _get(client, "/events", query)
        return fold(name, map(json.loads, answer.text.splitlines()))


def _now(client: docker.DockerClient) -> float:
    """The engine's time. An end in its future makes it wait; one in its past hides the last
    events, so a clock that differs is not believed."""
    told = parsedate_to_datetime(_get(client, "/_ping", {}).headers["Date"]).timestamp()
    here = time.time()
    # The engine tells whole seconds.
    return here if told <= here < told + 2 else told + 1


def _get(client: docker.DockerClient, path: str, query: Mapping[str, str]) -> requests.Response:
    # docker-py's own `events` waits without limit and takes a cut connection for the end.
    api = client.api
    answer = api.get(url(api, path), params=query, timeout=api.timeout)
    require_ok(answer)
    return answer
