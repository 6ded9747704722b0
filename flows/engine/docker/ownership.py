"""What on an engine is a job's own: by its name and label, and a container by its mount as well.

Images hand labels on: a container of one that was made of a task's container carries all of them,
and is whoever's who made it. It has neither the name nor the mount.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import docker
import docker.errors

from flows.engine.docker.client import said
from flows.spec import JOB_ROOT, LABEL_JOB_ID, RUN_VOLUME_SUFFIX, Owned, is_named_for_its_job

_UNNAMED = re.compile(r"[0-9a-f]{64}")


def list_owned(api: docker.APIClient) -> Iterator[Owned]:
    """Every container and per-run volume that is a job's own, of any job. One that the engine does
    not tell of is among them where its name and label say so: its removal tells why."""
    ours = {"label": LABEL_JOB_ID}
    for found in api.containers(all=True, filters=ours):
        # A listing need not tell of mounts.
        for name in map(_plain, found["Names"]):
            if is_named_for_its_job(name, found["Labels"]):
                try:
                    yield from _own(api, "container", found["Id"])
                except docker.errors.APIError:
                    yield Owned("container", name, found["Id"], found["Labels"])
    for found in api.volumes(filters=ours)["Volumes"] or []:
        yield from _own_of("volume", found)


def remove_own(api: docker.APIClient, kind: str, name: str, job_id: str) -> bool:
    """Remove a container, running or not, or a volume, by its name or id, if it is the job's own;
    whether it was removed."""
    try:
        # Looked at right before, and removed by its id: what has the name may be another by now.
        for owned in _own(api, kind, name):
            if owned.job_id == job_id:
                options = {"force": True, "v": True} if kind == "container" else {}
                getattr(api, f"remove_{kind}")(owned.id, **options)
                return True
    except docker.errors.NotFound:
        return False
    except docker.errors.APIError as error:
        if kind != "container" or "is already in progress" not in said(error):
            raise
        return True
    return False


def shows_a_job(container: Mapping[str, Any]) -> bool:
    """Whether a container, as inspect tells of it, mounts a job's folder, as all of ours do.

    An image cannot hand that on: what its VOLUME mounts has a number for a name.
    """
    return any(
        str(each.get("Destination")).startswith(f"{JOB_ROOT}/")
        and not _UNNAMED.fullmatch(str(each.get("Name")))
        for each in container.get("Mounts") or []
    )


def _own(api: docker.APIClient, kind: str, name: str) -> Iterator[Owned]:
    """The object of this name or id, if it is a job's own."""
    try:
        found = getattr(api, f"inspect_{kind}")(name)
    except docker.errors.NotFound:
        return
    if kind != "container":
        yield from _own_of(kind, found)
    elif shows_a_job(found):
        named = {"Name": _plain(found["Name"]), "Labels": found["Config"]["Labels"]}
        yield from _own_of(kind, {"Id": found["Id"], **named})


def _own_of(kind: Any, found: Mapping[str, Any]) -> Iterator[Owned]:
    name, labels = found["Name"], found["Labels"] or {}
    suffix = RUN_VOLUME_SUFFIX if kind == "volume" else ""
    if name.endswith(suffix) and is_named_for_its_job(name.removesuffix(suffix), labels):
        # A volume has no id.
        yield Owned(kind, name, found.get("Id", name), labels)


def _plain(name: str) -> str:
    """Docker writes a container's name with a slash before it."""
    return name.removeprefix("/")
