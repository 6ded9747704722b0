"""The worker of pools of the type `container-task`: it runs the flows in its own process.

The flow code is this package's own, and arbitrary code runs in containers alone, so a process for
each run would isolate nothing. Prefect finds it through the entry point group
`prefect.collections`: `prefect worker start --pool container-tasks --type container-task`.
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
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
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.exceptions import PrefectSignal
from prefect.types._datetime import now
from prefect.workers.base import (
    BaseJobConfiguration,
    BaseVariables,
    BaseWorker,
    BaseWorkerResult,
)
from tenacity import AsyncRetrying, stop_after_attempt, wait_exponential

from flows.engine.docker.engine import DockerEngine
from flows.errors import HostMisconfigured
from flows.runtime.cancellation import Cancellation, Reason
from flows.settings import HostSettings
from flows.units import Resources
from flows.worker.admission import Admitted, admit, capacity
from flows.worker.cleanup import tidy
from flows.worker.in_process import Carrier, NotOurs
from flows.worker.queue import Backlog, Taken, follow_pool, note_taken, reject, tell_waiting
from flows.worker.sweep import sweep
from flows.worker.takeover import Silence, take_over

# How many runs are asked for at a time, beyond those that are known to wait.
_BATCH = 20
_MOST = 200
_UNLIMITED = 1_000_000
# Many runs that are submitted at once are asked for together.
_GATHER_SECONDS = 0.1
_SWEEP_SECONDS = 60.0


class ContainerTaskResult(BaseWorkerResult):
    """How a run that was carried in this process ended: 0, or 1 for one that crashed."""


class ContainerTaskWorker(BaseWorker[BaseJobConfiguration, BaseVariables, ContainerTaskResult]):
    """Takes what fits its host from the pool's queues, and carries it in its own process."""

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
        self._backlog = Backlog(self._host)
        # Of each run that this process carries, from its claim until its end is told.
        self._cancellations: dict[UUID, Cancellation] = {}
        self._carrier = Carrier(self._is_carried)
        self._total = Resources()
        self._used = Resources()
        self._is_serving = False
        self._has_news = True
        self._turn = asyncio.Lock()
        self._woken = asyncio.Event()

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """Nothing of a job differs by deployment: what differs by host is the worker's own."""
        # The server takes no empty configuration.
        return {
            "job_configuration": {"env": {}},
            "variables": {"type": "object", "properties": {}},
        }

    async def run(
        self,
        flow_run: FlowRun,
        configuration: BaseJobConfiguration,
        task_status: TaskStatus[Any] | None = None,
    ) -> ContainerTaskResult:
        """Carry one flow run to its end."""
        if task_status is not None:
            task_status.started(self._host.worker)
        cancellation = self._cancellations[flow_run.id] = Cancellation()
        try:
            logger = self.get_flow_run_logger(flow_run)
            await self._carrier.carry(self.client, flow_run, cancellation, logger)
        finally:
            del self._cancellations[flow_run.id]
        return ContainerTaskResult(identifier=str(flow_run.id), status_code=0)

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Look for work and for cancellations without being told; the backstop of the events."""
        if not self._has_successfully_synced:
            return []
        # That it polls, for the health check: it may ask for nothing while all its slots are taken.
        self._last_polled_time = now("UTC")
        self._has_news = True
        try:
            await self._cancel_what_is_cancelling()
            return await self._start_what_fits()
        except Exception as error:  # noqa: BLE001 - what runs here must not end for a failed poll
            self._logger.warning("Could not ask for work: %s", error)
            return []

    async def setup(self) -> None:
        """Prepare to take work."""
        self._heed_sigterm()
        await super().setup()

    def _heed_sigterm(self) -> None:
        """End on SIGTERM by ourselves.

        Prefect's own handler sends an interrupt, which a process that was started in the
        background of a shell ignores. A second SIGTERM ends the process at once.
        """
        loop, serving = asyncio.get_running_loop(), asyncio.current_task()

        def end() -> None:
            loop.remove_signal_handler(signal.SIGTERM)
            self._logger.info("Told to stop: taking no more runs, handing over what goes on")
            if serving is not None:
                serving.cancel()

        # Only the main thread hears signals.
        with contextlib.suppress(ValueError, RuntimeError):
            loop.add_signal_handler(signal.SIGTERM, end)

    async def teardown(self, *exc_info: Any) -> None:
        """End the worker. Runs get a moment to end by themselves; the rest is handed over."""
        try:
            await super().teardown(*exc_info)
        finally:
            self._carrier.close()

    async def _initialize_after_sync(self) -> None:
        """Called after every heartbeat; what it starts, it starts once."""
        await super()._initialize_after_sync()
        if self._work_pool is None or self._is_serving:
            return
        self._is_serving = True
        pool_id = self._work_pool.id
        self._begin_service(lambda: follow_pool(pool_id, self._wake, self._cancel))
        self._begin_service(self._serve)
        self._begin_service(self._sweep)
        self._begin_service(self._tidy)

    def _begin_service(self, service: Callable[[], Awaitable[None]]) -> None:
        async def serve() -> None:
            with anyio.CancelScope() as scope:
                # The base class cancels these first of all when the worker ends.
                self._scheduled_task_scopes.add(scope)
                await service()

        if self._runs_task_group is not None:
            self._runs_task_group.start_soon(serve)

    def _wake(self, *, news: bool = True) -> None:
        self._has_news = self._has_news or news
        self._woken.set()

    async def _serve(self) -> None:
        """Start runs as they come, and as room for them comes."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._backlog.seconds_to_next()):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await self._start_what_fits()
            except Exception as error:  # noqa: BLE001 - the next poll asks again
                self._logger.warning("Could not ask for work: %s", error)
            await asyncio.sleep(_GATHER_SECONDS)

    async def _sweep(self) -> None:
        """Take up what earlier workers of this host left, and look after it from then on.

        The scheduled sweep looks after one host a minute, whichever has its turn.
        """
        silence, pool = Silence(self._host.patience_seconds), self._work_pool_name

        async def look() -> None:
            async with DockerEngine() as engine:
                looking = self.client, self._host, engine, self._logger
                await sweep(*looking, is_carried=self._is_carried)
            async for told in take_over(self.client, pool, self._host.worker, self.name, silence):
                self._logger.info(told)

        await self._every_minute("sweep", look)

    async def _tidy(self) -> None:
        """Finish uploads, and remove what has been kept long enough."""

        async def look() -> None:
            async with DockerEngine() as engine:
                looking = self.client, self._host, engine, self._logger
                await tidy(*looking, is_carried=self._is_carried)

        await self._every_minute("tidy up", look)

    async def _every_minute(self, doing: str, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await look()
            except Exception as error:  # noqa: BLE001 - the next one comes within a minute
                self._logger.warning("Could not %s: %s", doing, error)
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _start_what_fits(self) -> list[FlowRun]:
        started: list[FlowRun] = []
        async with self._turn:
            if not self._total:
                self._total = await capacity(self._host, self._logger)
            while slots := self._slots():
                asks = self._has_news and self._backlog.unjudged < slots
                if asks:
                    self._has_news = await self._ask(slots)
                admitted = admit(
                    self._backlog.waiting(), self._total, self._used, self._host.worker, slots
                )
                # What is claimed and never begun would be missed for minutes. Around all of them,
                # for a shield inside a gathered task would shield nothing.
                with anyio.CancelScope(shield=True):
                    begun = await asyncio.gather(*map(self._begin, admitted.start))
                started += filter(None, begun)
                told = await self._tell(admitted)
                if not (asks and self._has_news and (begun or told)):
                    break
        return started

    async def _ask(self, slots: int) -> bool:
        """Fetch what is due, in the order of the queues; whether there may be more behind it."""
        most = min(_MOST, self._backlog.told + min(slots, _BATCH))
        before = now("UTC") + timedelta(seconds=self._prefetch_seconds)
        response = await self.client.request(
            "POST",
            "/work_pools/{name}/get_scheduled_flow_runs",
            path_params={"name": self._work_pool_name},
            json={
                "work_queue_names": sorted(self._work_queues),
                "scheduled_before": str(before),
                "limit": most,
            },
        )
        self._last_polled_time = now("UTC")
        found = WorkerFlowRunResponse.model_validate_list(response.json())
        self._backlog.replace(
            each.flow_run for each in found if each.flow_run.id not in self._cancellations
        )
        return len(found) == most

    def _slots(self) -> int:
        return int(self._limiter.available_tokens) if self._limiter else _UNLIMITED

    async def _begin(self, run_id: UUID) -> FlowRun | None:
        """Claim a run; None where another worker was faster."""
        flow_run, needs, _ = taken = self._backlog.take(run_id)
        cancellation = self._cancellations[run_id] = Cancellation()
        self._used += needs
        if self._limiter:
            self._limiter.acquire_on_behalf_of_nowait(run_id)
        try:
            is_ours = await self._propose_pending_state(flow_run)
        except PrefectSignal:
            is_ours = False
        if is_ours and self._runs_task_group is not None:
            self._runs_task_group.start_soon(self._carry, taken, cancellation)
            return flow_run
        self._put_down(flow_run, needs)
        return None

    def _put_down(self, flow_run: FlowRun, needs: Resources) -> None:
        del self._cancellations[flow_run.id]
        self._used -= needs
        self._release_limit_slot(flow_run.id)
        self._wake(news=False)

    async def _carry(self, taken: Taken, cancellation: Cancellation) -> None:
        flow_run, needs, told = taken
        logger, client = self.get_flow_run_logger(flow_run), self.client
        try:
            if self._runs_task_group is not None:
                # Nothing of the run waits for it.
                words = (self.name, self._host.worker)
                note = partial(note_taken, client, flow_run, *words, was_told=bool(told))
                self._runs_task_group.start_soon(self._write, flow_run, note)
            await self._carrier.carry(client, flow_run, cancellation, logger)
        except NotOurs as error:
            await self._write(flow_run, partial(reject, client, flow_run, str(error)))
        except Exception as error:
            logger.exception("The run broke off")
            await self._propose_crashed_state(flow_run, f"Its worker could not carry it: {error}")
        finally:
            self._put_down(flow_run, needs)

    async def _tell(self, admitted: Admitted) -> bool:
        """Say on each run what it waits for, once, and end those that can never start here.

        Returns whether there was anything new to say.
        """
        waits = [run_id for run_id in admitted.waits if not self._backlog.is_told(run_id)]
        for run_id in waits:
            flow_run = self._backlog.tell(run_id, admitted.waits[run_id])
            self.get_flow_run_logger(flow_run).info("It is %s", admitted.waits[run_id])
            await tell_waiting(self.client, flow_run, admitted.waits[run_id])
        for run_id, sentence in admitted.never.items():
            flow_run, _, _ = self._backlog.take(run_id)
            if await self._propose_pending_state(flow_run):
                await self._write(flow_run, partial(reject, self.client, flow_run, sentence))
        return bool(waits or admitted.never)

    async def _write(self, flow_run: FlowRun, writing: Callable[[], Awaitable[None]]) -> None:
        """Write something on a run; one that cannot be written on must not end the worker."""
        retrying = AsyncRetrying(
            stop=stop_after_attempt(5), wait=wait_exponential(max=30), reraise=True
        )
        try:
            await retrying(writing)
        except Exception as error:  # noqa: BLE001 - one run must not end the worker
            self._logger.warning("Could not write on the flow run %s: %r", flow_run.id, error)

    def _cancel(self, flow_run_id: UUID) -> None:
        """Somebody cancels a run; one that this process carries is stopped."""
        if cancellation := self._cancellations.get(flow_run_id):
            cancellation.request(Reason.CANCEL)

    def _is_carried(self, job_id: str) -> bool:
        return job_id in map(str, list(self._cancellations))

    async def _cancel_what_is_cancelling(self) -> None:
        if not self._cancellations:
            return
        wanted = FlowRunFilter(
            id=FlowRunFilterId(any_=list(self._cancellations)),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CANCELLING])),
        )
        for flow_run in await self.client.read_flow_runs(flow_run_filter=wanted):
            self._cancel(flow_run.id)
