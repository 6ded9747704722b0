"""List and remove what carries a job's label on an engine."""

from collections.abc import Callable, Iterator
from typing import Any

import docker
import docker.errors

from flows.engine.docker.errors import said
from flows.spec import LABEL_JOB_ID, Owned


def list_owned(api: docker.APIClient) -> Iterator[Owned]:
    """Every container, per-run volume and network that carries a job's label."""
    ours = {"label": LABEL_JOB_ID}
    for found in api.containers(all=True, filters=ours):
        yield Owned("container", found["Names"][0].lstrip("/"), found["Id"], found["Labels"])
    for found in api.volumes(filters=ours)["Volumes"] or []:
        yield Owned("volume", found["Name"], found["Name"], found["Labels"])
    for found in api.networks(filters=ours):
        yield Owned("network", found["Name"], found["Id"], found["Labels"])


def remove_own(api: docker.APIClient, kind: str, name: str, job_id: str) -> bool:
    """Remove an object by its name or id if it carries the job's label; whether it was removed."""
    kinds: dict[str, tuple[Callable[[str], Any], Callable[[str], Any]]] = {
        "container": (
            lambda key: api.inspect_container(key)["Config"]["Labels"],
            lambda key: remove_container(api, key),
        ),
        "volume": (lambda key: api.inspect_volume(key)["Labels"], api.remove_volume),
        "network": (lambda key: api.inspect_network(key)["Labels"], api.remove_network),
    }
    labels_of, remove = kinds[kind]
    try:
        # Read again right before: the object of that name may be somebody else's by now.
        if (labels_of(name) or {}).get(LABEL_JOB_ID) != job_id:
            return False
        remove(name)
    except docker.errors.NotFound:
        return False
    return True


def remove_container(api: docker.APIClient, container: str) -> None:
    """Remove a container, running or not; one that is gone or going is no error."""
    try:
        api.remove_container(container, force=True, v=True)
    except docker.errors.NotFound:
        return
    except docker.errors.APIError as error:
        if "is already in progress" not in said(error):
            raise
