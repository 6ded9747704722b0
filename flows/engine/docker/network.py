"""The bridge network that the tasks of an engine share, without inter-container communication.

It is made by the first task that needs it and stays. The name of its interface is the same for all
who make it at once, and the bridge driver takes a name once: so there is one network.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import docker
import docker.errors

from flows.engine.docker.client import said
from flows.errors import EngineError
from flows.spec import LABEL_NETWORK, TASK_NETWORK

_ICC = "com.docker.network.bridge.enable_icc"
_INTERFACE = "com.docker.network.bridge.name"
_ADVICE = "or name another network in the container policy (network)"
# So long may it take others to have made it. Meanwhile there may be no addresses left: each who
# tries takes some, until it is told that it is not the first.
_TRIES, _PAUSE_SECONDS = 30, 0.1


def ensure_task_network(api: docker.APIClient) -> str:
    """Make the network where it is missing; the name of its interface. Raises `EngineError`, also
    for one of that name which is not the runner's."""
    found = _found(api) or _made(api)
    if problem := problem_of(found):
        raise EngineError(
            f"the network {TASK_NETWORK} of this engine {problem}; remove it (docker network rm "
            f"{TASK_NETWORK}), so that the runner makes its own, {_ADVICE}"
        )
    return str(found["Options"].get(_INTERFACE, ""))


def network_arguments(interface: str) -> dict[str, Any]:
    """Arguments for docker-py's `create_network`."""
    return {
        "name": TASK_NETWORK,
        "driver": "bridge",
        "options": {_ICC: "false", _INTERFACE: interface},
        "labels": {LABEL_NETWORK: "tasks"},
        "check_duplicate": True,
    }


def problem_of(found: Mapping[str, Any]) -> str | None:
    """What keeps a network of that name from being the one that tasks share."""
    if (found.get("Labels") or {}).get(LABEL_NETWORK) != "tasks":
        return "was not made by the runner"
    if found.get("Driver") != "bridge" or (found.get("Options") or {}).get(_ICC) != "false":
        return "lets its containers reach each other"
    return None


def _made(api: docker.APIClient) -> Mapping[str, Any]:
    interface = _interface_of(api)
    try:
        api.create_network(**network_arguments(interface))
    except docker.errors.APIError as error:
        for _ in range(_TRIES):
            if found := _found(api):
                return found
            time.sleep(_PAUSE_SECONDS)
        raise EngineError(
            f"Docker cannot make the network {TASK_NETWORK}, which tasks share: {said(error)}; "
            "mend that (where its address pools are used up, docker network prune removes networks "
            "that nobody uses; where a proxy refuses it, let POST /networks/create through), "
            f"{_ADVICE}"
        ) from error
    return api.inspect_network(TASK_NETWORK)  # type: ignore[no-any-return]


def _interface_of(api: docker.APIClient) -> str:
    """One that no other engine on the same host would take; what an engine makes itself when it
    starts has an id of its own."""
    with _let_through("GET /networks"):
        found = api.networks(filters={"type": "builtin"})
    builtin = {each["Name"]: str(each["Id"]) for each in found}
    return f"mm-{builtin.get('bridge', 'tasks')[:8]}"


def _found(api: docker.APIClient) -> Mapping[str, Any] | None:
    try:
        with _let_through(f"GET /networks/{TASK_NETWORK}"):
            return api.inspect_network(TASK_NETWORK)  # type: ignore[no-any-return]
    except docker.errors.NotFound:
        return None


@contextmanager
def _let_through(call: str) -> Iterator[None]:
    """Raise `EngineError` where what stands before the engine refuses what no engine does."""
    try:
        yield
    except docker.errors.NotFound:
        raise
    except docker.errors.APIError as error:
        if not error.is_client_error():
            raise
        raise EngineError(
            f"Docker cannot be asked for the network {TASK_NETWORK}, which tasks share: "
            f"{said(error)}; have the proxy before it let {call} through, {_ADVICE}"
        ) from error
