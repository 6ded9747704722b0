"""List and remove what carries a job's label on an engine."""

from collections.abc import Iterator

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
    """Remove a container, running or not, a volume or a network, by its name or id, if it carries
    the job's label; whether it was removed."""
    try:
        # Read again right before: the object of that name may be somebody else's by now.
        found = getattr(api, f"inspect_{kind}")(name)
        labels = found["Config"]["Labels"] if kind == "container" else found["Labels"]
        if (labels or {}).get(LABEL_JOB_ID) != job_id:
            return False
        if kind == "container":
            api.remove_container(name, force=True, v=True)
        else:
            getattr(api, f"remove_{kind}")(name)
    except docker.errors.NotFound:
        return False
    except docker.errors.APIError as error:
        if kind != "container" or "is already in progress" not in said(error):
            raise
    return True
