"""Checks of Prefect's server: that it answers, and has all that a run there goes through."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import prefect
from packaging.version import Version
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import WorkerStatus, WorkPool, WorkQueue
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from flows.cli.doctor.checkup import Check, Finding, Part, fault, halves, ok, warning
from flows.cli.doctor.engine import judge_clock
from flows.cli.prefect_api import NO_SERVER, api_url, unreachable
from flows.worker.worker import ContainerTaskWorker

API, CLOCK, DEPLOYMENT, POOL, WORKERS, QUEUE, SWEEP = (
    "Prefect's API",
    "clock of the API",
    "deployment",
    "work pool",
    "workers",
    "work queue",
    "sweep",
)
_KINDS = (ContainerTaskWorker.type, "process")
_ENTRYPOINT = "flows.container_task.container_task"
_SWEEP = "reap-orphans/docker"
_DEPLOY = "register it with prefect deploy --all, in a checkout with this package's prefect.yaml"


@dataclass(frozen=True, slots=True)
class PrefectChecks:
    """The checks of one server, for one deployment."""

    deployment: str

    def checks(self) -> list[Check]:
        """What is looked at."""
        return [
            Check(API, Part.PREFECT, api),
            Check(CLOCK, Part.PREFECT, clock, (API,)),
            Check(DEPLOYMENT, Part.PREFECT, self.way, (API,)),
            Check(SWEEP, Part.PREFECT, sweep, (API,)),
        ]

    async def way(self) -> Sequence[Finding]:
        """The way of a run from its deployment to a worker, as far as it leads."""
        async with get_client() as client:
            try:
                found = await client.read_deployment_by_name(self.deployment)
            except (ObjectNotFound, ValueError):
                says = f"there is no deployment {self.deployment} on this server"
                return [fault(DEPLOYMENT, says, _DEPLOY)]
            return [judge_deployment(found, self.deployment), *await _pool(client, found)]


async def api() -> Sequence[Finding]:
    """Whether the server answers, lets this process in, and is of the version that is needed."""
    url = api_url()
    if url is None:
        says, _, mend = NO_SERVER.partition(": ")
        return [fault(API, says, f"in the environment of the worker, {mend}")]
    try:
        async with get_client() as client:
            version = await client.api_version()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return [fault(API, *halves(unreachable(url, error).replace("): ", "); ")))]
    says = f"{version} at {url}"
    ours, theirs = Version(prefect.__version__), Version(str(version))
    if ours.release[:2] != theirs.release[:2]:
        says = f"the server at {url} is of version {theirs}, this host's Prefect is {ours}"
        return [warning(API, says, "give both the same minor version, the server first")]
    return [ok(API, says)]


async def clock() -> Sequence[Finding]:
    """Whether the server and this host agree on the time."""
    async with get_client() as client:
        asked_at = datetime.now(UTC)
        date = (await client.request("GET", "/health")).headers.get("Date")
    now = parsedate_to_datetime(date) if date else None
    return [judge_clock(CLOCK, "Prefect's server", now, asked_at)]


async def sweep() -> Sequence[Finding]:
    """Whether somebody looks after what died."""
    async with get_client() as client:
        try:
            found = await client.read_deployment_by_name(_SWEEP)
        except ObjectNotFound:
            says = f"there is no deployment {_SWEEP}, so nobody looks after runs whose process died"
            return [warning(SWEEP, says, _DEPLOY)]
    if found.paused or not any(each.active for each in found.schedules):
        says = (
            f"the deployment {_SWEEP} has no active schedule, so nobody looks after runs that died"
        )
        mend = f"resume it: prefect deployment schedule resume {_SWEEP} --all"
        return [warning(SWEEP, says, mend)]
    return [ok(SWEEP, f"{_SWEEP} is scheduled")]


def judge_deployment(found: DeploymentResponse, name: str) -> Finding:
    """Whether a deployment takes tasks."""
    if found.entrypoint != _ENTRYPOINT:
        says = f"{name} runs {found.entrypoint}, not this package's {_ENTRYPOINT}"
        return fault(DEPLOYMENT, says, _DEPLOY)
    if found.paused:
        says = f"{name} is paused: what is submitted is not scheduled"
        return fault(DEPLOYMENT, says, "resume it on its page in the UI")
    if found.work_pool_name is None:
        mend = f"create it: prefect work-pool create POOL --type {ContainerTaskWorker.type}; then "
        return fault(DEPLOYMENT, f"{name} has no work pool, or it was deleted", f"{mend}{_DEPLOY}")
    return ok(DEPLOYMENT, f"{name}, on the pool {found.work_pool_name}")


async def _pool(client: PrefectClient, found: DeploymentResponse) -> list[Finding]:
    name = found.work_pool_name
    if name is None:
        return []
    try:
        pool = await client.read_work_pool(name)
    except ObjectNotFound:
        mend = f"create it: prefect work-pool create {name} --type {ContainerTaskWorker.type}"
        return [fault(POOL, f"there is no work pool {name}", mend)]
    online = [
        each.name
        for each in await client.read_workers_for_work_pool(name)
        if each.status is WorkerStatus.ONLINE
    ]
    return [
        judge_pool(pool),
        judge_workers(name, online),
        await _queue(client, name, found.work_queue_name or "default"),
    ]


def judge_pool(pool: WorkPool) -> Finding:
    """Whether a pool gives its work to workers that can do it."""
    if pool.type not in _KINDS:
        says = f"the pool {pool.name} is of the type {pool.type}, whose workers run no such tasks"
        mend = f"delete it, and create it anew with --type {ContainerTaskWorker.type}"
        return fault(POOL, says, mend)
    if stopped := _stopped(POOL, f"the pool {pool.name}", pool, f"work-pool {{}} {pool.name}"):
        return stopped
    limit = f", at most {pool.concurrency_limit} runs" if pool.concurrency_limit else ""
    return ok(POOL, f"{pool.name}, of the type {pool.type}{limit}")


def judge_workers(pool: str, online: Sequence[str]) -> Finding:
    """Whether anybody takes work from the pool."""
    if online:
        return ok(WORKERS, f"online in {pool}: {', '.join(sorted(online))}")
    says = f"no worker of the pool {pool} is online: what is submitted waits"
    return warning(WORKERS, says, f"start one: prefect worker start --pool {pool}")


async def _queue(client: PrefectClient, pool: str, name: str) -> Finding:
    try:
        queue = await client.read_work_queue_by_name(name, work_pool_name=pool)
    except ObjectNotFound:
        mend = f"create it: prefect work-queue create {name} --pool {pool}"
        return fault(QUEUE, f"there is no queue {name} in the pool {pool}", mend)
    which, command = f"the queue {name} of the pool {pool}", f"work-queue {{}} {name} --pool {pool}"
    if stopped := _stopped(QUEUE, which, queue, command):
        return stopped
    limit = f", at most {queue.concurrency_limit} runs" if queue.concurrency_limit else ""
    return ok(QUEUE, f"{name} of {pool}{limit}")


def _stopped(name: str, which: str, what: WorkPool | WorkQueue, command: str) -> Finding | None:
    """Why nothing comes out of it; None where something does."""
    if what.is_paused:
        return fault(
            name,
            f"{which} is paused: its runs wait",
            f"resume it: prefect {command.format('resume')}",
        )
    if what.concurrency_limit == 0:
        return fault(
            name,
            f"{which} has a concurrency limit of 0: its runs wait",
            f"take it away: prefect {command.format('clear-concurrency-limit')}",
        )
    return None
