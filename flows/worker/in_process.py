"""Run flows in this process: a thread and an event loop each, handed over when the worker ends."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import anyio
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound, PrefectSignal
from prefect.flow_engine import run_flow
from prefect.flows import Flow, load_flow_from_entrypoint

from flows.attempt import Attempt
from flows.engine.selection import open_engine
from flows.payload.parse import secrets_of
from flows.report.names import FLOW_NAME
from flows.runtime.api_client import on_begun
from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.context import Dependencies, InjectedFlow, Job
from flows.runtime.last_word import last_word, word_on_claimed
from flows.runtime.lease import UNBOUNDED, Lease, Permit
from flows.runtime.leased_engine import under_permit
from flows.runtime.run_states import cancelled_state, request_of_claimed
from flows.runtime.stopping import NO_STATE, stop
from flows.runtime.store import AttemptStore, IsRunning, RecordUnreadable, runs_nothing
from flows.settings import HostSettings
from flows.worker.run_threads import RunThreads
from flows.workspace.logs import Logger

# What a worker that is told to end gives runs to end by themselves, and then to be handed over.
_DRAIN_SECONDS = 5.0
_LET_GO_SECONDS = 15.0
_PACKAGE = "flows."


class NotOurs(Exception):
    """A deployment's flow is not of this package; `str()` is one sentence for a person."""


class BrokenOff(Exception):
    """A run ended without an end; `str()` says how."""


async def _nothing() -> None: ...


class InProcessRunner:
    """Runs flows of this package, each run in a thread of its own; serves a worker for its life."""

    def __init__(self, is_running: IsRunning = runs_nothing, lease: Lease = UNBOUNDED) -> None:
        self._is_running = is_running
        self._lease = lease
        self._threads = RunThreads()
        self._flows: dict[UUID, Flow[..., Any]] = {}

    async def run(
        self,
        client: PrefectClient,
        flow_run: FlowRun,
        cancellation: Cancellation,
        logger: Logger,
        note_begun: Callable[[], None] = lambda: None,
        before_begin: Callable[[], Awaitable[None]] = _nothing,
    ) -> State[Any] | None:
        """Run the flow to its end, of a task its state; `cancellation` ends it early. Raises
        `NotOurs`, `BrokenOff`.

        `before_begin` is awaited once it may begin; `note_begun` is called, from another thread,
        once the run's state is Running. A caller that is cancelled returns once the run has ended
        or is handed over, within 20 s; one that has not begun by then does not begin.
        """
        begun = threading.Event()

        def note() -> None:
            begun.set()
            note_begun()

        flow = await self._flow(client, flow_run)
        if isinstance(flow, InjectedFlow):
            flow = flow.bind(self._dependencies(flow_run, cancellation))
        task = _Task.of(flow_run, logger) if flow.name == FLOW_NAME else None
        # The server lets Running follow what a person said meanwhile.
        reason = await word_on_claimed(client, flow_run, HostSettings().worker)
        if reason is None:
            await before_begin()
            work = partial(_run_flow, flow, flow_run, cancellation, note)
            running = asyncio.ensure_future(self._threads.run(work))
            await _ended_or_handed_over(running, cancellation, begun)
            state = _end_of(running, logger)
            if state is None or not state.is_cancelling():
                return state if task else None
            reason = await last_word(client, flow_run.id)
        if reason is not None:
            await _stop(client, flow_run, reason, task, logger)
        return None

    def runs_task(self, flow_run: FlowRun) -> bool:
        """Whether its flow is that of a container task, or not known."""
        flow = flow_run.deployment_id and self._flows.get(flow_run.deployment_id)
        return not flow or flow.name == FLOW_NAME

    def close(self) -> None:
        self._threads.close()

    def _dependencies(self, flow_run: FlowRun, cancellation: Cancellation) -> Dependencies:
        store = AttemptStore(HostSettings().workdir, str(flow_run.id))
        return Dependencies(
            under_permit(open_engine, Permit(self._lease, cancellation), store),
            cancellation,
            self._is_running,
            self._lease,
            request_of_claimed(flow_run),
        )

    async def _flow(self, client: PrefectClient, flow_run: FlowRun) -> Flow[..., Any]:
        deployment_id = flow_run.deployment_id
        if deployment_id is None:
            raise NotOurs("the run has no deployment, which would name its flow")
        if deployment_id not in self._flows:
            try:
                deployment = await client.read_deployment(deployment_id)
            except ObjectNotFound:
                raise NotOurs("its deployment was deleted before the run began") from None
            entrypoint = deployment.entrypoint or ""
            if not entrypoint.startswith(_PACKAGE):
                raise NotOurs(
                    f"the deployment {deployment.name} runs {entrypoint or 'nothing'}, and a pool "
                    f"of the type container-task runs flows of the package {_PACKAGE[:-1]} alone: "
                    "send it to a pool of the type process"
                )
            self._flows[deployment_id] = load_flow_from_entrypoint(entrypoint)
        return self._flows[deployment_id]


@dataclass(frozen=True, slots=True)
class _Task:
    """A container task's job, and its newest attempt before this process took it."""

    job: Job
    before: Attempt | None = None

    @classmethod
    def of(cls, flow_run: FlowRun, logger: Logger) -> "_Task":
        """Notes on disk that the run is on this host: a worker that is killed between the state
        Running and the flow's first step leaves no other trace for the sweep."""
        host = HostSettings()
        store = AttemptStore(host.workdir, str(flow_run.id))
        job = Job(store, logger, secrets=secrets_of(flow_run.parameters.get("payload")), host=host)
        try:
            store.note_taken()
            return cls(job, store.last())
        except (OSError, RecordUnreadable) as error:
            # The flow needs the folder as well, and ends the run with a word on it.
            logger.warning("Could not note that the run is on this host: %s", error)
            return cls(job)


async def _stop(
    client: PrefectClient, flow_run: FlowRun, reason: Reason, task: _Task | None, logger: Logger
) -> None:
    """Stop a run whose flow did not begin, or came too late to set what it came to."""
    logger.info("The run ends here: %s", NO_STATE.get(reason, "somebody cancels it"))
    state = cancelled_state(None) if reason is Reason.CANCEL else None
    if task is not None:
        state = await stop(task.job, reason, client, task.before)
    if state is not None:
        await client.set_flow_run_state(flow_run.id, state)


async def _run_flow(
    flow: Flow[..., Any],
    flow_run: FlowRun,
    cancellation: Cancellation,
    note_begun: Callable[[], None],
) -> State[Any]:
    if cancellation.reason is Reason.HAND_OVER:
        raise BrokenOff("its worker stopped before it began")
    on_begun.set(note_begun)
    # Prefect's engine gives every run of a deployment a thread, a loop and a connection to hear of
    # its suspension. It reads the run once more, so that the flow knows its deployment.
    plain = flow_run.model_copy(update={"deployment_id": None})
    return await run_flow(flow, flow_run=plain, return_type="state")  # type: ignore[misc, no-any-return]


async def _ended_or_handed_over(
    running: asyncio.Future[State[Any]], cancellation: Cancellation, begun: threading.Event
) -> None:
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            if begun.is_set():
                await asyncio.wait([running], timeout=_DRAIN_SECONDS)
            cancellation.request(Reason.HAND_OVER)
            await asyncio.wait([running], timeout=_LET_GO_SECONDS)
        raise


def _end_of(running: asyncio.Future[State[Any]], logger: Logger) -> State[Any] | None:
    """The final state, or Cancelling where the server took no other; None where the server let the
    run go no further. Raises `BrokenOff`."""
    error = None if running.cancelled() else running.exception()
    if isinstance(error, PrefectSignal):
        logger.info("The run ends here: %s", error)
        return None
    if error is not None or running.cancelled():
        raise BrokenOff(f"the run broke off: {error!r}") from error
    return running.result()
