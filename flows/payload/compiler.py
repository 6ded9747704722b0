"""."""

import hashlib
import json
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from flows.payload.container import Container
from flows.payload.models import TaskPayload
from flows.payload.policy import Policy
from flows.payload.policy_check import require_allowed
from flows.payload.repository import Remote
from flows.spec import (
    JOB_ID_PLACEHOLDER,
    JOB_ROOT,
    LABEL_EXPIRES_AT,
    LABEL_JOB_ID,
    LABEL_SPEC,
    ContainerSpec,
    Mount,
    Output,
    Run,
    container_name,
)
from flows.units import memory_bytes

# What may lie between the compilation of a spec and its container's removal, beside the pull, the
# time limit and the grace. Past it, whatever is left is nobody's.
EXPIRY_SLACK_SECONDS = 3 * 3600


def compile_spec(
    payload: "TaskPayload",
    policy: "Policy",
    mount: Mount,
    run: Run,
    *,
    default_timeout_seconds: int,
) -> ContainerSpec:
    """Decide everything about the container of one attempt.

    `mount` shows the job's folder, and no other, to the container. What the policy has a ceiling
    for and the payload says nothing of gets the ceiling. Raises `PolicyRefused` where the payload
    asks for what the policy does not allow.
    """
    container = payload.task.container
    if container.image is None or container.command is None:
        raise ValueError("only a payload with an enabled container compiles")
    require_allowed(payload, policy)
    job_dir = f"{JOB_ROOT}/{run.job_id}"
    limits = container.resources
    timeout = container.timeout_seconds or min(
        default_timeout_seconds, policy.max_timeout_seconds or default_timeout_seconds
    )
    grace = container.stop_grace_seconds
    if grace is None:
        grace = policy.stop_grace_seconds
    repository = Remote.parse(payload.repository).display if payload.repository else ""
    decided: dict[str, Any] = {
        "job_id": run.job_id,
        "image": container.image,
        "pull": container.pull,
        "platform": container.platform,
        "command": container.command,
        "workdir": _workdir(container, job_dir, run.job_id),
        "env": {
            **container.env,
            "JOB_ID": run.job_id,
            "REPOSITORY": repository,
            "ARTIFACT_DIR": f"{job_dir}/artifacts/{container.artifacts_subdir}",
        },
        "mounts": (
            mount,
            *(Mount("cache", volume.name, volume.target) for volume in container.cache_volumes),
        ),
        "artifacts_subdir": container.artifacts_subdir,
        "pull_timeout_seconds": container.pull_timeout_seconds,
        "timeout_seconds": timeout,
        "stop_grace_seconds": grace,
        "cpus": limits.cpus or policy.max_cpus,
        "memory_bytes": memory_bytes(limits.memory) if limits.memory else policy.max_memory_bytes,
        "pids_limit": limits.pids or policy.pids_limit,
        "no_new_privileges": policy.no_new_privileges,
        "entrypoint": container.entrypoint,
        "user": container.user or policy.user,
        "network": container.network or policy.network,
        "shm_bytes": memory_bytes(limits.shm) if limits.shm else None,
        "gpus": limits.gpus,
        "cap_add": tuple(policy.cap_add),
        "cap_drop": tuple(policy.cap_drop),
        "secrets": container.secrets,
        "outputs": tuple(Output(each.path, each.required, each.type) for each in container.outputs),
    }
    return ContainerSpec(
        **decided,
        attempt=run.attempt,
        name=container_name(run),
        labels={
            LABEL_JOB_ID: run.job_id,
            "moonmind.repository": repository,
            "moonmind.runtime": "container",
            "moonmind.attempt": str(run.attempt),
            "moonmind.worker": run.worker,
            "moonmind.created_at": run.now.isoformat(),
            LABEL_EXPIRES_AT: _expiry(
                run.now, container.pull_timeout_seconds + timeout + grace
            ).isoformat(),
            LABEL_SPEC: _fingerprint(decided),
        },
    )


def _workdir(container: "Container", job_dir: str, job_id: str) -> str:
    if container.workdir is None:
        return f"{job_dir}/repo"
    return container.workdir.replace(JOB_ID_PLACEHOLDER, job_id)


def _expiry(now: datetime, limit_seconds: int) -> datetime:
    return now + timedelta(seconds=limit_seconds + EXPIRY_SLACK_SECONDS)


def _fingerprint(decided: dict[str, Any]) -> str:
    """The same for every attempt at the same task: a running container can be recognised."""
    plain = decided | {
        key: [asdict(each) for each in decided[key]] for key in ("mounts", "outputs")
    }
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
