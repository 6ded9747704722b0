"""Compile a payload into the frozen `ContainerSpec` of one attempt, after it was held against the
operator's policy and the worker's capabilities: every fault at once, each with the rule and its
remedy. Pure, without clock or host.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, replace
from datetime import timedelta

from flows.payload.caches import cache_mounts
from flows.payload.container import Container
from flows.payload.models import TaskPayload
from flows.payload.policy import Policy
from flows.payload.policy_check import require_allowed
from flows.spec import (
    EXPIRY_SLACK_SECONDS,
    JOB_ID_PLACEHOLDER,
    JOB_ROOT,
    LABEL_EXPIRES_AT,
    LABEL_JOB_ID,
    LABEL_SPEC,
    NAME_PREFIX,
    ContainerSpec,
    Mount,
    Output,
    Run,
)
from flows.units import memory_bytes

# Of the fields with a default, those that the first fingerprints had. Later ones count only where
# they are set, so that the same payload has the same fingerprint in every version.
_ALWAYS_IN_FINGERPRINT = frozenset({
    "entrypoint", "user", "network", "shm_bytes", "gpus", "cap_add", "cap_drop", "secrets",
    "platform", "outputs",
})  # fmt: skip


def compile_spec(
    payload: TaskPayload, policy: Policy, mount: Mount, run: Run, *, default_timeout_seconds: int
) -> ContainerSpec:
    """The spec of one attempt's container, which sees the job's folder by `mount`.

    Where the payload sets no limit, the policy's ceiling is the limit. Raises `PolicyRefused`.
    """
    container = payload.task.container
    if container.image is None or container.command is None:
        raise ValueError("only a payload with an enabled container compiles")
    require_allowed(payload, policy, mount)
    job_dir, limits = f"{JOB_ROOT}/{run.job_id}", container.resources
    grace = container.stop_grace_seconds
    spec = ContainerSpec(
        job_id=run.job_id,
        attempt=run.attempt,
        name=f"{NAME_PREFIX}{run.job_id}-{run.attempt}",
        image=container.image,
        pull=container.pull,
        command=container.command,
        workdir=(container.workdir or f"{job_dir}/repo").replace(JOB_ID_PLACEHOLDER, run.job_id),
        env={**container.env, **_own_variables(payload, run)},
        mounts=(mount, *cache_mounts(payload, policy, run)),
        artifacts_subdir=container.artifacts_subdir,
        pull_timeout_seconds=container.pull_timeout_seconds,
        timeout_seconds=_time_limit(container, policy, default_timeout_seconds),
        stop_grace_seconds=policy.stop_grace_seconds if grace is None else grace,
        cpus=limits.cpus or policy.max_cpus,
        memory_bytes=memory_bytes(limits.memory) if limits.memory else policy.max_memory_bytes,
        pids_limit=limits.pids or policy.pids_limit,
        no_new_privileges=policy.no_new_privileges,
        labels={},
        entrypoint=container.entrypoint,
        user=container.user or policy.user,
        network=container.network or policy.network,
        shm_bytes=memory_bytes(limits.shm) if limits.shm else None,
        gpus=limits.gpus,
        cap_add=tuple(policy.cap_add),
        cap_drop=tuple(policy.cap_drop),
        secrets=container.secrets,
        platform=container.platform,
        outputs=tuple(Output(each.path, each.required, each.type) for each in container.outputs),
    )
    return replace(spec, labels=_labels(spec, run))


def _time_limit(container: Container, policy: Policy, default_seconds: int) -> int:
    ceiling = policy.max_timeout_seconds or default_seconds
    return container.timeout_seconds or min(default_seconds, ceiling)


def _own_variables(payload: TaskPayload, run: Run) -> Mapping[str, str]:
    repository = payload.remote.display if payload.remote else ""
    artifact_dir = f"{JOB_ROOT}/{run.job_id}/artifacts/{payload.task.container.artifacts_subdir}"
    return {"JOB_ID": run.job_id, "REPOSITORY": repository, "ARTIFACT_DIR": artifact_dir}


def _labels(spec: ContainerSpec, run: Run) -> Mapping[str, str]:
    expires_at = run.now + timedelta(seconds=spec.limit_seconds + EXPIRY_SLACK_SECONDS)
    return {
        LABEL_JOB_ID: run.job_id,
        "moonmind.repository": spec.env["REPOSITORY"],
        "moonmind.runtime": "container",
        "moonmind.attempt": str(run.attempt),
        "moonmind.worker": run.worker,
        "moonmind.created_at": run.now.isoformat(),
        LABEL_EXPIRES_AT: expires_at.isoformat(),
        LABEL_SPEC: _fingerprint(spec),
    }


def _fingerprint(spec: ContainerSpec) -> str:
    """SHA-256 of the spec: the same for every attempt at the same task, and in every version."""
    defaults = {
        each.name: each.default if each.default_factory is MISSING else each.default_factory()
        for each in fields(spec)
    }
    plain = {
        name: value
        for name, value in asdict(spec).items()
        if name not in ("attempt", "name", "labels")
        and (name in _ALWAYS_IN_FINGERPRINT or value != defaults[name])
    }
    # Whose a cache is, is no part of the task, as the first fingerprints had it.
    plain["mounts"] = [{k: v for k, v in each.items() if k != "owner"} for each in plain["mounts"]]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
