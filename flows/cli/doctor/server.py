"""Checks of Prefect's server: API, clock, deployment, work pool, workers, queue and sweep."""

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial

import httpx
import prefect
from packaging.version import Version
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import WorkerStatus, WorkPool, WorkQueue
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from flows.cli.doctor.checkup import Check, Finding, Part, fault, ok, split_advice, warning
from flows.cli.doctor.engine import clock_finding
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


def server_checks(deployment: str) -> list[Check]:
    """The checks of the server, for runs of one deployment."""
    return [
        Check(API, Part.PREFECT, check_api),
        Check(CLOCK, Part.PREFECT, check_clock, (API,)),
        Check(DEPLOYMENT, Part.PREFECT, partial(check_deployment, deployment), (API,)),
        Check(SWEEP, Part.PREFECT, check_sweep, (API,)),
    ]


async def check_deployment(name: str) -> Sequence[Finding]:
    """The way of a run from its deployment to a worker, as far as it leads."""
    async with get_client() as client:
        try:
            found = await client.read_deployment_by_name(name)
        except (ObjectNotFound, ValueError):
            says = f"there is no deployment {name} on this server"
            return [fault(DEPLOYMENT, says, _DEPLOY)]
        return [_deployment_finding(found, name), *await _pool_findings(client, found)]


async def check_api() -> Sequence[Finding]:
    """Whether the server answers, lets this process in, and is of the version that is needed."""
    url = api_url()
    if url is None:
        says, _, mend = NO_SERVER.partition(": ")
        return [fault(API, says, f"in the environment of the worker, {mend}")]
    try:
        async with get_client() as client:
            version = await client.api_version()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return [fault(API, *split_advice(unreachable(url, error).replace("): ", "); ")))]
    says = f"{version} at {url}"
    ours, theirs = Version(prefect.__version__), Version(str(version))
    if ours.release[:2] != theirs.release[:2]:
        says = f"the server at {url} is of version {theirs}, this host's Prefect is {ours}"
        return [warning(API, says, "give both the same minor version, the server first")]
    return [ok(API, says)]


async def check_clock() -> Sequence[Finding]:
    """Whether the server and this host agree on the time."""
    async with get_client() as client:
        asked_at = datetime.now(UTC)
        date = (await client.request("GET", "/health")).headers.get("Date")
    now = parsedate_to_datetime(date) if date else None
    return [clock_finding(CLOCK, "Prefect's server", now, asked_at)]


async def check_sweep() -> Sequence[Finding]:
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


def _deployment_finding(found: DeploymentResponse, name: str) -> Finding:
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


async def _pool_findings(client: PrefectClient, found: DeploymentResponse) -> list[Finding]:
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
        _pool_finding(pool),
        _workers_finding(name, online),
        await _queue_finding(client, name, found.work_queue_name or "default"),
    ]


def _pool_finding(pool: WorkPool) -> Finding:
    """Whether a pool gives its work to workers that can do it."""
    which, command = f"the pool {pool.name}", f"work-pool {{}} {pool.name}"
    if pool.type not in _KINDS:
        says = f"{which} is of the type {pool.type}, whose workers run no such tasks"
        mend = f"delete it, and create it anew with --type {ContainerTaskWorker.type}"
        return fault(POOL, says, mend)
    says = f"{pool.name}, of the type {pool.type}"
    return _stopped(POOL, which, pool, command) or ok(POOL, says + _limit(pool))


def _workers_finding(pool: str, online: Sequence[str]) -> Finding:
    """Whether anybody takes work from the pool."""
    if online:
        return ok(WORKERS, f"online in {pool}: {', '.join(sorted(online))}")
    says = f"no worker of the pool {pool} is online: what is submitted waits"
    return warning(WORKERS, says, f"start one: prefect worker start --pool {pool}")


async def _queue_finding(client: PrefectClient, pool: str, name: str) -> Finding:
    try:
        queue = await client.read_work_queue_by_name(name, work_pool_name=pool)
    except ObjectNotFound:
        mend = f"create it: prefect work-queue create {name} --pool {pool}"
        return fault(QUEUE, f"there is no queue {name} in the pool {pool}", mend)
    which, command = f"the queue {name} of the pool {pool}", f"work-queue {{}} {name} --pool {pool}"
    says = f"{name} of {pool}{_limit(queue)}"
    return _stopped(QUEUE, which, queue, command) or ok(QUEUE, says)


def _limit(what: WorkPool | WorkQueue) -> str:
    return f", at most {what.concurrency_limit} runs" if what.concurrency_limit else ""


def _stopped(name: str, which: str, what: WorkPool | WorkQueue, command: str) -> Finding | None:
    """Why nothing comes out of it; None where something does."""
    if what.is_paused:
        mend = f"resume it: prefect {command.format('resume')}"
        return fault(name, f"{which} is paused: its runs wait", mend)
    if what.concurrency_limit == 0:
        mend = f"take it away: prefect {command.format('clear-concurrency-limit')}"
        return fault(name, f"{which} has a concurrency limit of 0: its runs wait", mend)
    return None
