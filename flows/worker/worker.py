"""Prefect worker of the type `container-task`: claims flow runs and runs them in its own process.

Arbitrary code runs in containers alone, so a process for each run would isolate nothing. Prefect
finds it through the entry point group `prefect.collections`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any
from uuid import UUID

import anyio
from anyio.abc import TaskStatus
from prefect import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_WORKER_QUERY_SECONDS
from prefect.types._datetime import now
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult

from flows.errors import HostMisconfigured
from flows.payload.parse import secrets_of
from flows.runtime.api_client import RunClientContext
from flows.runtime.cancellation import Reason
from flows.runtime.context import Job
from flows.runtime.driver import drive
from flows.runtime.lease import Lease
from flows.runtime.run_states import claim_message
from flows.runtime.stopping import stop
from flows.runtime.store import AttemptStore
from flows.settings import HostSettings
from flows.worker import services
from flows.worker.claims import Claimant, ClaimedRun, ClaimLoop
from flows.worker.gate import is_engines_fault
from flows.worker.in_process import InProcessRunner, NotOurs
from flows.worker.lease import keep_lease
from flows.worker.owners import NameTaken, present_in_turn
from flows.worker.queue import PoolQueues
from flows.worker.reconcile import Reconciler
from flows.worker.run_notes import label_host, reject
from flows.worker.standstill import stand_still_unless_heard
from flows.worker.sweep import SweptHost
from flows.worker.takeover import TakeOver


class ContainerTaskResult(BaseWorkerResult):
    """What Prefect asks of a worker's `run`: the flow run's id, and 0."""


class ContainerTaskWorker(BaseWorker[BaseJobConfiguration, BaseVariables, ContainerTaskResult]):
    """Claims what fits its host from the pool's queues, and runs it in its own process."""

    type = "container-task"
    _description = (
        "Run container tasks in the worker's own process. Requires a Docker Engine in its reach."
    )

    def __init__(self, *words: Any, **settings: Any) -> None:
        super().__init__(*words, **settings)
        try:
            self._host = HostSettings.from_environment()
        except HostMisconfigured as error:
            # The command that starts it would show a traceback of anything else.
            raise SystemExit(str(error)) from None
        if settings.get("name"):
            # Of two hosts' workers of one name, nobody would hear one's death.
            self.name = f"{self.name} on {self._host.worker}"
        self._lease = Lease.under(self._host.patience_seconds)
        self._runner = InProcessRunner(self._is_running, self._lease)
        self._claimed: dict[UUID, ClaimedRun] = {}
        self._claims: ClaimLoop | None = None
        self._is_run_once = False
        self._reconciler = Reconciler(
            self._host.worker,
            lambda: self.client,
            partial(self._spawn, self._stop_suspended),
            self._logger,
        )

    # What Prefect calls.

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """Nothing of a job differs by deployment: what differs by host is the worker's own."""
        # The server takes no empty configuration.
        return {"job_configuration": {"env": {}}, "variables": {"type": "object", "properties": {}}}

    async def run(
        self,
        flow_run: FlowRun,
        configuration: BaseJobConfiguration,
        task_status: TaskStatus[Any] | None = None,
    ) -> ContainerTaskResult:
        """Run one flow run to its end. Prefect calls it for flows submitted to the object alone."""
        if task_status is not None:
            task_status.started(self._host.worker)
        logger = self.get_flow_run_logger(flow_run)
        # It takes nothing of this host's room, as it has not been admitted.
        claimed = self._claimed[flow_run.id] = ClaimedRun(flow_run)
        claimed.begun.set()
        try:
            with self._reconciler.carrying(flow_run, claimed.cancellation):
                await self._runner.run(self.client, flow_run, claimed.cancellation, logger)
        finally:
            del self._claimed[flow_run.id]
        return ContainerTaskResult(identifier=str(flow_run.id), status_code=0)

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Poll for runs that wait, and for what was said of those here: the backstop of events."""
        if not self._has_successfully_synced:
            return []
        if self._is_run_once and self._claims is not None:
            # Prefect ends the services after its one poll, and what runs needs them.
            await self._claims.until_idle(self._poll, PREFECT_WORKER_QUERY_SECONDS.value())
        else:
            await self._poll()
        return []

    async def _poll(self) -> None:
        # That it polls, for the health check: it may ask for nothing while all its slots are taken.
        self._last_polled_time = now("UTC")
        try:
            await self._reconciler.look()
        except Exception as error:  # noqa: BLE001 - what runs here must not end for a failed poll
            self._logger.warning("Could not ask for work: %s", error)
            return
        if self._claims is not None:
            self._claims.wake()
            if self._is_run_once:
                await self._claims.look()

    async def start(self, run_once: bool = False, *words: Any, **settings: Any) -> None:
        """Run until told to stop; with `run_once`, until what waits now has ended."""
        self._is_run_once = run_once
        await super().start(run_once, *words, **settings)

    async def setup(self) -> None:
        services.allow_descriptors(self._logger)
        services.cancel_on_sigterm(self._logger, self._claim_nothing_more)
        try:
            present = await present_in_turn(self._host.workdir, self.name, self._logger)
        except NameTaken as error:
            raise SystemExit(str(error)) from None
        self._exit_stack.enter_context(present)
        # The base class asks Prefect for its client.
        await self._exit_stack.enter_async_context(RunClientContext())
        await stand_still_unless_heard(get_client(), self._host, self._logger)
        await super().setup()

    async def _sync_and_initialize(self) -> None:
        """Send a heartbeat. Prefect's loop ends the worker, and with it its runs, when that fails
        for some minutes; a server that is away is waited for."""
        try:
            await super()._sync_and_initialize()
        except Exception as error:
            if not self.is_setup:
                # Who starts it is told what is wrong.
                raise
            self._logger.warning("Could not send a heartbeat: %r", error)

    async def teardown(self, *exc_info: Any) -> None:
        """End the worker. Runs get a moment to end by themselves; the rest is handed over."""
        self._claim_nothing_more()
        try:
            await super().teardown(*exc_info)
        finally:
            self._runner.close()

    def _claim_nothing_more(self) -> None:
        if self._claims is not None:
            self._claims.stop()

    async def _initialize_after_sync(self) -> None:
        """Start the services, once; Prefect calls this after every heartbeat."""
        await super()._initialize_after_sync()
        if self._work_pool is None or self._claims is not None:
            return
        self._claims = claims = ClaimLoop(self._claimant(), self._claimed)
        log = self._logger
        host = SweptHost(self.client, self._host, log, self._is_running, worker=self.name)
        names, patience = (self._host.worker, self.name), self._host.patience_seconds
        take_over = TakeOver(self.client, log, self._work_pool_name, names, patience)
        for service in (
            partial(keep_lease, self._lease, self._send_heartbeat, self._reconciler.look, log),
            partial(
                services.follow_pool, self._work_pool.id, claims.wake, self._reconciler.mention
            ),
            self._reconciler.look_when_told,
            claims.look_when_woken,
            partial(services.sweep_every_minute, host),
            partial(services.take_over_always, take_over, log),
            partial(services.tidy_every_minute, host),
        ):
            self._spawn(self._serve, service)

    async def _send_heartbeat(self) -> None:
        await self.client.send_worker_heartbeat(
            self._work_pool_name, self.name, self.heartbeat_interval_seconds
        )

    async def _serve(self, service: Callable[[], Awaitable[None]]) -> None:
        with anyio.CancelScope() as scope:
            # The base class cancels these first of all when the worker ends.
            self._scheduled_task_scopes.add(scope)
            await service()

    def _spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> bool:
        """Run a coroutine beside the others; False where the worker has ended."""
        if self._runs_task_group is None:
            return False
        self._runs_task_group.start_soon(function, *arguments)
        return True

    def _is_running(self, job_id: str) -> bool:
        """Whether this process has claimed the job and has not told its end; from any thread."""
        return job_id in map(str, list(self._claimed))

    # What becomes of a run that was claimed.

    def _claimant(self) -> Claimant:
        return Claimant(
            client=self.client,
            host=self._host,
            queues=PoolQueues(
                self.client, self._work_pool_name, self._work_queues, self._prefetch_seconds
            ),
            message=claim_message(self.name, self._host.worker),
            limit=self._limit,
            logger=self._logger,
            run_logger=self.get_flow_run_logger,
            carry=partial(self._spawn, self._run_claimed),
            set_aside=lambda: self._reconciler.set_aside,
        )

    async def _run_claimed(self, claimed: ClaimedRun) -> None:
        """Carry a run to its end; one that does not begin is given back."""
        claims = self._claims
        if claims is None:
            return
        try:
            if (state := await self._carry(claimed)) is not None:
                store = self._job(claimed.flow_run).store
                claims.gate.note_end(engine_failed=is_engines_fault(state, store))
        except Exception as error:  # noqa: BLE001 - what broke off here must be gone on with
            self.get_flow_run_logger(claimed.flow_run).exception("The run broke off")
            if claimed.begun.is_set():
                # Once it is nobody's.
                why = f"Its worker could not carry it: {error}"
                self._spawn(self._bring_on, claimed.flow_run, why)
        finally:
            if not claimed.begun.is_set():
                with anyio.CancelScope(shield=True):
                    await claims.give_back(claimed.flow_run)
            claims.release(claimed.flow_run.id)

    async def _carry(self, claimed: ClaimedRun) -> State[Any] | None:
        flow_run, client = claimed.flow_run, self.client
        logger = self.get_flow_run_logger(flow_run)
        if not self._lease.is_held:
            logger.info("Another host may have taken it over since it was claimed")
            return None
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, self._wake_for_more)

        def note_begun() -> None:
            claimed.begun.set()
            wake()

        async def label() -> None:
            # By these others judge whose the run is, from the state Running on.
            await label_host(client, flow_run, self.name, self._host.worker, claimed.had_tag)
            carried.is_labelled = True

        try:
            with self._reconciler.carrying(flow_run, claimed.cancellation) as carried:
                return await self._runner.run(
                    client, flow_run, claimed.cancellation, logger, note_begun, label
                )
        except NotOurs as error:
            await reject(client, flow_run, str(error))
            return None

    def _wake_for_more(self) -> None:
        if self._claims is not None:
            self._claims.note_begun()

    async def _bring_on(self, flow_run: FlowRun, why: str) -> None:
        """Do the next step of a run that broke off here."""
        job = self._job(flow_run)
        try:
            if self._runner.runs_task(flow_run):
                await drive(job, self.client, is_lost=True)
            else:
                await self._propose_crashed_state(flow_run, why)
        except Exception as error:  # noqa: BLE001 - the sweep does what is missing
            job.logger.warning("Could not bring the run on: %s", error)

    async def _stop_suspended(self, flow_run: FlowRun, reason: Reason) -> None:
        """Do with a suspended run what somebody said of it meanwhile."""
        job = self._job(flow_run)
        try:
            if (state := await stop(job, reason, self.client)) is not None:
                await self.client.set_flow_run_state(flow_run.id, state)
        except Exception as error:  # noqa: BLE001 - the sweep does what is missing
            job.logger.warning("Could not end the run: %s", error)

    def _job(self, flow_run: FlowRun) -> Job:
        store = AttemptStore(self._host.workdir, str(flow_run.id), self._is_running)
        secrets = secrets_of(flow_run.parameters.get("payload"))
        return Job(store, self.get_flow_run_logger(flow_run), secrets=secrets, host=self._host)
