"""Prefect worker of the type `container-task`: claims flow runs and runs them in its own process.

Arbitrary code runs in containers alone, so a process for each run would isolate nothing. Prefect
finds it through the entry point group `prefect.collections`.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import anyio
from anyio.abc import TaskStatus
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectSignal
from prefect.types._datetime import now
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult

from flows.errors import HostMisconfigured
from flows.runtime.cancellation import Cancellation, Reason
from flows.settings import HostSettings
from flows.units import NOTHING
from flows.worker import services
from flows.worker.admission import Admission, Decision, QueuedTask, admit, capacity
from flows.worker.in_process import InProcessRunner, NotOurs
from flows.worker.queue import QueuedRun, RunQueue, fetch_scheduled
from flows.worker.run_notes import label_host, reject, tag_waiting
from flows.worker.sweep import SweptHost

# How many runs are asked for at a time, beyond those that are known to wait.
_BATCH = 20
# Many runs that are submitted at once are asked for together.
_GATHER_SECONDS = 0.1


class ContainerTaskResult(BaseWorkerResult):
    """What Prefect asks of a worker's `run`: the flow run's id, and 0."""


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A flow run that this process runs, what is set aside for it, and how it is stopped."""

    queued: QueuedRun
    cancellation: Cancellation


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
        self._runner = InProcessRunner(self._is_running)
        self._queue = RunQueue(self._host)
        self._claimed: dict[UUID, ClaimedRun] = {}
        self._total = NOTHING
        self._is_serving = False
        self._may_have_more = True
        self._claiming = asyncio.Lock()
        self._woken = asyncio.Event()

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
        unqueued = QueuedRun(flow_run, QueuedTask(flow_run.id), 0.0)
        claimed = self._claimed[flow_run.id] = ClaimedRun(unqueued, Cancellation())
        try:
            await self._runner.run(self.client, flow_run, claimed.cancellation, logger)
        finally:
            del self._claimed[flow_run.id]
        return ContainerTaskResult(identifier=str(flow_run.id), status_code=0)

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Poll for scheduled and for cancelled runs: the backstop of the events."""
        if not self._has_successfully_synced:
            return []
        # That it polls, for the health check: it may ask for nothing while all its slots are taken.
        self._last_polled_time = now("UTC")
        self._may_have_more = True
        try:
            await self._poll_cancellations()
        except Exception as error:  # noqa: BLE001 - what runs here must not end for a failed poll
            self._logger.warning("Could not ask for work: %s", error)
            return []
        return await self._start_what_fits()

    async def setup(self) -> None:
        services.cancel_on_sigterm(self._logger)
        await super().setup()

    async def teardown(self, *exc_info: Any) -> None:
        """End the worker. Runs get a moment to end by themselves; the rest is handed over."""
        try:
            await super().teardown(*exc_info)
        finally:
            self._runner.close()

    async def _initialize_after_sync(self) -> None:
        """Start the services, once; Prefect calls this after every heartbeat."""
        await super()._initialize_after_sync()
        if self._work_pool is None or self._is_serving:
            return
        self._is_serving = True
        host = SweptHost(self.client, self._host, self._logger, self._is_running)
        for service in (
            partial(services.follow_pool, self._work_pool.id, self._wake, self._cancel),
            self._start_when_woken,
            partial(services.sweep_every_minute, host, self._work_pool_name, self.name),
            partial(services.tidy_every_minute, host),
        ):
            self._spawn(self._serve, service)

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

    # Cancellation: by the pool's events and, where these do not come through, by polling.

    def _cancel(self, run_id: UUID) -> None:
        if claimed := self._claimed.get(run_id):
            claimed.cancellation.request(Reason.CANCEL)

    def _is_running(self, job_id: str) -> bool:
        """Whether this process has claimed the job and has not told its end; from any thread."""
        return job_id in map(str, list(self._claimed))

    async def _poll_cancellations(self) -> None:
        if not self._claimed:
            return
        cancelling = FlowRunFilter(
            id=FlowRunFilterId(any_=list(self._claimed)),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CANCELLING])),
        )
        for flow_run in await self.client.read_flow_runs(flow_run_filter=cancelling):
            self._cancel(flow_run.id)

    # The claim loop: fetch, decide, claim, run, release.

    def _wake(self, *, may_have_more: bool = True) -> None:
        self._may_have_more |= may_have_more
        self._woken.set()

    async def _start_when_woken(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._queue.seconds_to_next()):
                    await self._woken.wait()
            self._woken.clear()
            await self._start_what_fits()
            await asyncio.sleep(_GATHER_SECONDS)

    async def _start_what_fits(self) -> list[FlowRun]:
        started: list[FlowRun] = []
        try:
            async with self._claiming:
                self._total = self._total or await capacity(self._host, self._logger)
                while slots := self._slots():
                    fetches = self._may_have_more and self._queue.startable < slots
                    if fetches:
                        await self._fetch(slots)
                    decisions = self._admit(slots)
                    begun = await self._claim_all(decisions)
                    told = await self._tag_or_reject(decisions)
                    started += begun
                    if not (fetches and self._may_have_more and (begun or told)):
                        break
        except Exception as error:  # noqa: BLE001 - the next poll asks again
            self._logger.warning("Could not ask for work: %s", error)
        return started

    def _slots(self) -> int:
        return int(self._limiter.available_tokens) if self._limiter else 1_000_000

    async def _fetch(self, slots: int) -> None:
        limit = min(200, self._queue.blocked + min(slots, _BATCH))
        before = now("UTC") + timedelta(seconds=self._prefetch_seconds)
        pool, queues = self._work_pool_name, self._work_queues
        found = await fetch_scheduled(self.client, pool, queues, before, limit)
        self._last_polled_time = now("UTC")
        self._may_have_more = len(found) == limit
        self._queue.replace(run for run in found if run.id not in self._claimed)

    def _admit(self, slots: int) -> Mapping[UUID, Admission]:
        used = sum((each.queued.task.needs for each in self._claimed.values()), NOTHING)
        return admit(self._queue.due(), self._total, used, self._host.worker, slots)

    async def _claim_all(self, decisions: Mapping[UUID, Admission]) -> list[FlowRun]:
        start = [run_id for run_id, each in decisions.items() if each.decision is Decision.START]
        # What is claimed and never begun would be missed for minutes. Around all of them, for a
        # shield inside a gathered task would shield nothing.
        with anyio.CancelScope(shield=True):
            claimed = await asyncio.gather(*map(self._claim, start))
        return [flow_run for flow_run in claimed if flow_run]

    async def _claim(self, run_id: UUID) -> FlowRun | None:
        """Propose the state Pending for a run, and start it; None where another was faster."""
        claimed = ClaimedRun(self._queue.pop(run_id), Cancellation())
        self._claimed[run_id] = claimed
        if self._limiter:
            self._limiter.acquire_on_behalf_of_nowait(run_id)
        flow_run = claimed.queued.flow_run
        try:
            is_ours = await self._propose_pending_state(flow_run)
        except PrefectSignal:
            is_ours = False
        if is_ours and self._spawn(self._run_claimed, claimed):
            return flow_run
        self._release(run_id)
        return None

    async def _run_claimed(self, claimed: ClaimedRun) -> None:
        flow_run, client = claimed.queued.flow_run, self.client
        logger = self.get_flow_run_logger(flow_run)
        # Nothing of the run waits for its labels.
        labels = (self.name, self._host.worker)
        self._spawn(label_host, client, flow_run, *labels, claimed.queued.is_blocked)
        try:
            await self._runner.run(client, flow_run, claimed.cancellation, logger)
        except NotOurs as error:
            await reject(client, flow_run, str(error))
        except Exception as error:
            logger.exception("The run broke off")
            await self._propose_crashed_state(flow_run, f"Its worker could not carry it: {error}")
        finally:
            self._release(flow_run.id)

    def _release(self, run_id: UUID) -> None:
        del self._claimed[run_id]
        self._release_limit_slot(run_id)
        self._wake(may_have_more=False)

    async def _tag_or_reject(self, decisions: Mapping[UUID, Admission]) -> bool:
        is_new = False
        for run_id, each in decisions.items():
            if each.decision is Decision.WAIT and (blocked := self._queue.block(run_id)):
                self.get_flow_run_logger(blocked).info("It is %s", each.sentence)
                await tag_waiting(self.client, blocked, each.sentence)
            elif each.decision is Decision.REJECT:
                flow_run = self._queue.pop(run_id).flow_run
                if await self._propose_pending_state(flow_run):
                    await reject(self.client, flow_run, each.sentence)
            else:
                continue
            is_new = True
        return is_new
