"""Specs of one run that never happens, for tests that need no engine."""

from datetime import UTC, datetime
from pathlib import Path

from flows.engine.types import Image
from flows.payload.compiler import compile_spec
from flows.payload.parse import parse
from flows.payload.policy import Policy
from flows.spec import ContainerSpec, Mount, Run
from flows.workspace.folder import Workspace

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
RUN = Run("7f1e", attempt=2, worker="host-1", now=NOW)
JOB = "/work/agent_jobs/7f1e"
BIND = Workspace(Path("/srv/jobs"), RUN.job_id).mount
VOLUME = Workspace(Path("/srv/jobs"), RUN.job_id, "agent_workspaces").mount
IMAGE = Image("sha256:" + "a" * 64)


def compiled(
    raw: object, mount: Mount = BIND, run: Run = RUN, policy: Policy | None = None
) -> ContainerSpec:
    policy = policy or Policy()
    return compile_spec(parse(raw), policy, mount, run, default_timeout_seconds=900)
