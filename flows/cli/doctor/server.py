"""Checks of Prefect's server: API, clock, deployment, pool, workers, queue, sweep, and blocks."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from uuid import uuid4

import httpx
import prefect
from packaging.version import Version
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import WorkerStatus, WorkPool, WorkQueue
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from blocks.policy import ContainerPolicy, PolicyUnreadable
from blocks.registries import CredentialsUnreadable, saved_logins
from blocks.storage import ArtifactStorage, StorageUnreadable
from flows.cli.doctor.checkup import Check, Finding, Part, fault, ok, split_advice, warning
from flows.cli.doctor.engine import ENGINE, clock_finding
from flows.cli.doctor.old_secrets import OLD_SECRETS, check_old_secrets
from flows.cli.prefect_api import NO_SERVER, api_url, unreachable
from flows.engine.docker.probe import refused_login
from flows.engine.images.auth import Login
from flows.errors import EngineUnavailable, StorageError
from flows.outputs.stores import HashingReader, Store, explain, open_store
from flows.settings import HostSettings
from flows.threads import in_thread
from flows.worker.worker import ContainerTaskWorker

API, CLOCK, DEPLOYMENT, POOL, WORKERS, QUEUE, SWEEP, POLICY, STORAGE, REGISTRIES = (
    "Prefect's API",
    "clock of the API",
    "deployment",
    "work pool",
    "workers",
    "work queue",
    "sweep",
    "policy",
    "storage",
    "registries",
)
_ENTRYPOINT = "flows.container_task.container_task"
_SWEEP = "reap-orphans/docker"
_DEPLOY = "register it with prefect deploy --all, in a checkout with this package's prefect.yaml"
# Always the same, so that where it cannot be removed there is never more than one.
_KEY = "moonmind-doctor.txt"
_UI = "correct the block under Blocks in the UI, or delete it"


def server_checks(deployment: str) -> list[Check]:
    """The checks of the part `prefect`, for runs of one deployment."""
    return [
        Check(API, Part.PREFECT, check_api),
        Check(CLOCK, Part.PREFECT, check_clock, (API,)),
        Check(DEPLOYMENT, Part.PREFECT, partial(check_deployment, deployment), (API,)),
        Check(SWEEP, Part.PREFECT, check_sweep, (API,)),
        Check(POLICY, Part.PREFECT, check_policy, (API,)),
        Check(STORAGE, Part.PREFECT, check_storage, (API,), 60),
        Check(OLD_SECRETS, Part.PREFECT, check_old_secrets, (API, POLICY)),
        Check(REGISTRIES, Part.PREFECT, check_registries, (API, ENGINE), 60),
    ]


async def check_deployment(name: str) -> Sequence[Finding]:
    """The way of a run from its deployment to a worker, as far as it leads."""
    async with get_client() as client:
        try:
            found = await client.read_deployment_by_name(name)
        except (ObjectNotFound, ValueError):
            return [fault(DEPLOYMENT, f"there is no deployment {name} on this server", _DEPLOY)]
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
    which, command = f"the pool {pool.name}", f"work-pool {{}} {pool.name}"
    if pool.type not in (ContainerTaskWorker.type, "process"):
        says = f"{which} is of the type {pool.type}, whose workers run no such tasks"
        mend = f"delete it, and create it anew with --type {ContainerTaskWorker.type}"
        return fault(POOL, says, mend)
    says = f"{pool.name}, of the type {pool.type}"
    return _stopped(POOL, which, pool, command) or ok(POOL, says + _limit(pool))


def _workers_finding(pool: str, online: Sequence[str]) -> Finding:
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


async def check_policy() -> Sequence[Finding]:
    """Whether the policy in force can be read."""
    try:
        found = await ContainerPolicy.in_force()
    except PolicyUnreadable as error:
        return [fault(POLICY, str(error), _UI)]
    rules = found.plain()
    images = ", ".join(rules.allowed_images) or "none"
    return [ok(POLICY, f"images: {images}; networks: {', '.join(rules.allowed_networks)}")]


async def check_storage() -> Sequence[Finding]:
    """Whether the place for results takes a small file, and shows it."""
    try:
        block = await ArtifactStorage.in_force()
    except StorageUnreadable as error:
        return [fault(STORAGE, str(error), _UI)]
    if not block.is_remote:
        return [ok(STORAGE, "results stay in the job folders")]
    try:
        store = await open_store(block, HostSettings.from_environment().certificates)
    except StorageError as error:
        return [fault(STORAGE, str(error), "correct the block moonmind-artifact-storage/default")]
    try:
        return [await in_thread(lambda: _put_and_remove(store))]
    except Exception as error:  # noqa: BLE001 - of a storage comes almost anything
        says = f"{store.address} does not take files ({explain(error, store.secrets)})"
        mend = "see whether it exists, and whether the block's credentials may write there"
        return [fault(STORAGE, says, mend)]
    finally:
        await in_thread(store.close)


def _put_and_remove(store: Store) -> Finding:
    data = uuid4().hex.encode()
    try:
        # Another doctor may remove it in between, but hardly twice.
        is_stored = any(_put(store, data) for _ in range(2))
    finally:
        left = _remove(store)
    if not is_stored:
        mend = "see whether the address is the one that is meant, and who else writes there"
        return fault(STORAGE, f"{store.address} does not have what was just put there", mend)
    return ok(STORAGE, f"{store.address} takes files{left}")


def _put(store: Store, data: bytes) -> bool:
    store.put(_KEY, HashingReader(io.BytesIO(data), len(data), lambda: False))
    return store.has(_KEY, len(data))


def _remove(store: Store) -> str:
    """What stays behind, if anything; uploads never remove, so it need not be allowed."""
    try:
        is_gone = store.remove(_KEY)
    except FileNotFoundError:
        is_gone = True
    except Exception as error:  # noqa: BLE001 - of a storage comes almost anything
        said = explain(error, store.secrets)
        return f"; {_KEY} stays there, as it could not be removed ({said})"
    return "" if is_gone else f"; {_KEY} stays there, as a block cannot be asked to remove it"


async def check_registries() -> Sequence[Finding]:
    """Whether each saved log-in is one that its registry takes."""
    try:
        saved = await saved_logins()
    except CredentialsUnreadable as error:
        return [fault(REGISTRIES, str(error), _UI)]
    if not saved:
        return [ok(REGISTRIES, "no log-in is saved")]
    return [await _login_finding(name, login) for name, login in saved]


async def _login_finding(name: str, login: Login | CredentialsUnreadable) -> Finding:
    if isinstance(login, CredentialsUnreadable):
        return fault(REGISTRIES, str(login), _UI)
    who = f"the log-in of {login.username} to {login.registry}, in the block {name},"
    try:
        refusal = await in_thread(lambda: refused_login(login))
    except EngineUnavailable as error:
        says = f"{who} could not be tried ({error})"
        return warning(REGISTRIES, says, "run doctor once on the engine's host, without a proxy")
    if refusal is None:
        return ok(REGISTRIES, f"{who} is good")
    mend = f"correct user and password in the block {name}, or see whether the registry answers"
    return fault(REGISTRIES, f"{who} is refused: {refusal}", mend)
