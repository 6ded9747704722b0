"""The stage `prepare`: parse the payload, compile its spec, make the job's folder, `git clone`."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from prefect import get_client, runtime
from prefect.context import FlowRunContext

from flows.attempt import Attempt, Prepared, RetryRules
from flows.masking import Masker
from flows.payload.compiler import compile_spec
from flows.payload.container import Retry
from flows.payload.models import TaskPayload
from flows.payload.parse import misplaced, runnable
from flows.payload.policy import Policy
from flows.payload.policy_check import require_capabilities
from flows.payload.repository import Remote
from flows.report.names import run_name
from flows.runtime.beginning import Asked
from flows.runtime.collect import reclaim
from flows.runtime.context import Job
from flows.runtime.credentials import container_secrets, remote_of
from flows.runtime.elsewhere import attempts_elsewhere
from flows.runtime.ending import require_gone
from flows.runtime.observer import Absences
from flows.runtime.store import AttemptStore
from flows.runtime.surroundings import check_out, policy_in_force
from flows.settings import HostSettings
from flows.spec import ContainerSpec, Run
from flows.workspace.folder import Workspace
from flows.workspace.logs import Journal, Logger


@dataclass(frozen=True, slots=True)
class Decided:
    """Everything about an attempt of which nothing is made yet; `earlier` attempts were."""

    payload: TaskPayload
    policy: Policy
    workspace: Workspace
    spec: ContainerSpec
    remote: Remote | None
    masker: Masker
    earlier: int = 0

    def prepared(self, commit: str | None, seconds: float, ready_ns: int) -> Prepared:
        """As the attempt store keeps it. What is shown of it has no secret."""
        spec, mask, task = self.spec, self.masker, self.payload.task
        command, entrypoint = mask.words(spec.command), mask.words(spec.entrypoint or ())
        return Prepared(
            workspace=self.workspace,
            spec=spec,
            repository=self.remote.display if self.remote else None,
            commit=commit,
            instructions=task.instructions and mask.text(task.instructions),
            retry=_retry_rules(task.container.retry),
            prepare_seconds=round(seconds, 3),
            policy=self.policy,
            withheld=tuple(name for name, value in spec.env.items() if mask.text(value) != value),
            ready_ns=ready_ns,
            shown_command=command if command != spec.command else None,
            shown_entrypoint=entrypoint if entrypoint != (spec.entrypoint or ()) else None,
        )


async def prepare_attempt(raw: object, job: Job, asked: Asked) -> Attempt:
    """Decide what the next attempt runs, which answers what was `asked`; make folder and checkout.

    Raises a `ContainerTaskError`; of a first attempt, nothing is left then.
    """
    started, logger = time.monotonic(), job.logger
    decided = await _decide(raw, job.store, job.host)
    for sentence in misplaced(decided.payload):
        logger.warning(sentence)
    workspace, spec, earlier = decided.workspace, decided.spec, decided.earlier
    if earlier:
        # Nobody works in their folder any more, and what they left can be set aside and removed.
        async with job.open_engine(None) as engine:
            await require_gone(engine, job.store.attempts(), Absences(logger.info))
            if kept := await reclaim(engine, workspace, spec):
                logger.warning("Of an earlier attempt, %s", kept)
    await asyncio.to_thread(workspace.create, spec.artifacts_subdir, earlier or None)
    try:
        commit = await _checked_out(decided, job.host, logger)
        workspace.require_workdir(spec)
        ready_ns = workspace.now_ns()
    except BaseException:
        if earlier:
            workspace.move_into_place(spec.artifacts_subdir)
        else:
            await asyncio.to_thread(workspace.remove)
        raise
    prepared = decided.prepared(commit, time.monotonic() - started, ready_ns)
    attempt = Attempt(
        prepared, started_at=datetime.now(UTC), answers=asked.request, fence=asked.fence
    )
    job.store.put(attempt)
    if decided.payload.names_secrets:
        await _rename(run_name(decided.payload, decided.masker), logger)
    return attempt


async def _decide(raw: object, store: AttemptStore, host: HostSettings) -> Decided:
    payload = runnable(raw)
    require_capabilities(payload, host.capabilities)
    policy = await policy_in_force()
    earlier = await _earlier_attempts(store)
    now, deployment = datetime.now(UTC), await _deployment(payload)
    run = Run(store.job_id, earlier + 1, host.worker, now, deployment)
    workspace = Workspace(host.workdir, run.job_id, host.workspace_volume)
    spec = compile_spec(
        payload, policy, workspace.mount, run, default_timeout_seconds=host.timeout_seconds
    )
    # A block that is missing is found here.
    variables = await container_secrets(spec.secrets, policy.allowed_url_secrets)
    remote = await remote_of(payload)
    masker = Masker([*(remote.secrets if remote else ()), *variables.values()])
    return Decided(payload, policy, workspace, spec, remote, masker, earlier)


async def _deployment(payload: TaskPayload) -> str:
    """The run's deployment, where that is whose the payload's caches are."""
    context = FlowRunContext.get()
    if payload.remote or not payload.task.container.cache_volumes or context is None:
        return ""
    deployment_id = context.flow_run.deployment_id if context.flow_run else None
    if deployment_id is None or context.flow is None:
        return ""
    async with get_client() as client:
        return f"{context.flow.name}/{(await client.read_deployment(deployment_id)).name}"


async def _rename(name: str, logger: Logger) -> None:
    """Give the run its whole name, now that all secrets that it must not show are known."""
    try:
        async with get_client() as client:
            await client.update_flow_run(UUID(str(runtime.flow_run.id)), name=name)
    except Exception as error:  # noqa: BLE001 - of a server that is away comes almost anything
        logger.warning("The run keeps a name without its command: %s", type(error).__name__)


async def _checked_out(decided: Decided, host: HostSettings, logger: Logger) -> str | None:
    workspace, remote = decided.workspace, decided.remote
    with Journal(workspace, logger) as journal:
        journal.say(f"Prepared {workspace.folder}")
        if remote is None:
            return None
        payload, policy = decided.payload, decided.policy
        commit = await check_out(payload, remote, policy, workspace, host, journal.warn)
        journal.say(f"Checked out {remote.display} at {commit}")
        return commit


async def _earlier_attempts(store: AttemptStore) -> int:
    """The number of the last attempt, here or on another host where the run began before."""
    known = {each.prepared.spec.attempt for each in store.attempts()}
    here = max(known, default=0)
    if not runtime.flow_run.run_count or runtime.flow_run.run_count < 2:
        return here
    async with get_client() as client:
        elsewhere = await attempts_elsewhere(client, UUID(str(runtime.flow_run.id)), known)
    return max(here, elsewhere)


def _retry_rules(retry: Retry) -> RetryRules:
    exit_codes = {int(code): times for code, times in retry.exit_codes.items()}
    return RetryRules(retry.infrastructure, retry.image, exit_codes)
