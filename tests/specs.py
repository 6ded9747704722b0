"""Specs, refusals of payloads, and sinks, for tests that run no flow."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from flows.engine.types import Image
from flows.errors import PayloadError
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


def new_run() -> Run:
    """A run with an id of its own, as an engine that others use needs it."""
    return Run(str(uuid4()), attempt=1, worker="test", now=datetime.now(UTC))


def faults(raw: object) -> dict[str, str]:
    """The refusal of `raw`: message by JSON path."""
    with pytest.raises(PayloadError) as refusal:
        parse(raw)
    return {fault.path: fault.message for fault in refusal.value.faults}


class Nowhere:
    """A sink for output that no test looks at."""

    def write(self, chunk: bytes) -> None:
        """Forget it."""


class Collector:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.output = b""

    def write(self, chunk: bytes) -> None:
        self.output += chunk
