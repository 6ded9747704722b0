"""The Prefect flow `container-task`, its tasks prepare, execute and publish, and its final state.

What runs is decided in `flows.payload.compiler`, how it runs in `flows.runtime.execution`; nothing
here knows Docker.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import UUID

from prefect import flow, get_client, get_run_logger, runtime, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic_core import PydanticUndefined

from flows.attempt import Attempt, backoff_seconds, is_retried
from flows.errors import ContainerTaskError, EngineError, PayloadError
from flows.outcome import OVERDUE, Outcome, OutcomeName, outcome_of
from flows.payload.models import TaskPayload
from flows.payload.parse import PAYLOAD, parsed_if_valid, secrets_of
from flows.report import page
from flows.report.names import (
    FLOW_NAME,
    REPORT_KEY,
    run_name,
    stage_name,
    state_message,
)
from flows.runtime import steps
from flows.runtime.attempts import execute_attempt, finish_attempt
from flows.runtime.beginning import Asked, asked_for, clear, close
from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.context import Job, injectable, injected
from flows.runtime.driver import record_of
from flows.runtime.engine_wait import EngineWait
from flows.runtime.last_word import last_word, listening
from flows.runtime.lifecycle import Begin, begin
from flows.runtime.observer import Absences
from flows.runtime.prepare import prepare_attempt
from flows.runtime.publish import publish_attempt
from flows.runtime.recovery import (
    on_cancelled,
    on_crashed,
    on_ended,
    tell_finished,
    tell_started,
)
from flows.runtime.run_states import final_state
from flows.runtime.stopping import state_to_set
from flows.runtime.store import AttemptStore
from flows.runtime.unforeseen import again_where_unforeseen, unforeseen
from flows.settings import HostSettings
from flows.spec import PUBLISH_SECONDS, execute_seconds, flow_seconds

T = TypeVar("T")


@injectable
@flow(
    name=FLOW_NAME,
    flow_run_name=lambda: run_name(runtime.flow_run.parameters.get("payload")),
    # The flow checks its payload itself: a bad one ends `Rejected`, every fault in a sentence.
    validate_parameters=False,
    persist_result=False,
    # Nothing is stored there; without it, Prefect asks the server twice a run where to store.
    result_storage=Path("/nonexistent"),
    on_completion=[on_ended],
    on_failure=[on_ended],
    on_cancellation=[on_cancelled],
    on_crashed=[on_crashed],
)
async def container_task(payload: TaskPayload = PAYLOAD) -> State[Any]:
    """Run one container for one queue task.

    Args:
        payload: Which image and command to run, and in what surroundings.
    """
    given: object = payload
    raw = parsed_if_valid(None if given is PydanticUndefined else given)
    try:
        host = HostSettings.from_environment()
        store = AttemptStore(host.workdir, str(runtime.flow_run.id))
        job = Job(store, get_run_logger(), injected().open_engine, secrets_of(raw), host)
        return await _until_stopped(job, raw)
    except ContainerTaskError as error:
        return final_state(outcome_of(error))
    except Exception as error:  # noqa: BLE001 - a person is told what failed, whatever it is
        return final_state(unforeseen(error))


async def _until_stopped(job: Job, payload: object) -> State[Any]:
    told, state = injected().cancellation, None
    cancellation = told or Cancellation()
    hears = nullcontext() if told else listening(cancellation, _run_id(), job.logger)
    try:
        async with hears:
            work = partial(_in_turn, job, payload)
            state = await cancellation.cancels(again_where_unforeseen(job, payload, work))
    except asyncio.CancelledError:
        if cancellation.reason is None:
            raise
    return await state_to_set(job, _run_id(), cancellation.reason, state)


async def _in_turn(job: Job, payload: object) -> State[Any]:
    async with job.store.held_in_turn():
        return await _run_attempts(job, payload)


async def _run_attempts(job: Job, payload: object) -> State[Any]:
    asked = await asked_for(job)
    while True:
        newest, record = record_of(job)
        ended: State[Any] | None = None
        match begin(record, asked.request, asked.fence):
            case Begin.CLEAR:
                if (outcome := await clear(job, payload, newest)) is not None:
                    ended = final_state(outcome)
            case Begin.CLOSE:
                await close(job)
            case Begin.TELL_END if newest is not None:
                ended = final_state(newest.outcome, newest)
            case _:
                ended = await _run_attempt(job, payload, asked)
        if ended is not None:
            return ended


async def _run_attempt(job: Job, payload: object, asked: Asked) -> State[Any] | None:
    """Bring an attempt through its three stages; the final state where no other look follows."""
    attempt = await _value_of(prepare(payload, job, asked))
    if isinstance(attempt, Outcome):
        return final_state(attempt)
    if is_new := attempt.executed is None:
        _go_on_if_wanted()
        attempt = await _execute_in_time(attempt, job)
    _go_on_if_wanted()
    publishing: Any = publish(attempt, job, again=not is_new, return_state=True)
    published: State[Attempt] = await publishing
    attempts = job.store.attempts()
    if published.is_completed():
        attempt = await published.aresult()
    else:
        # The outcome stands; what cannot be told now is for the sweep, or for the next look.
        job.logger.warning("The results could not be published: %s", published.message)
    if not is_retried(attempts, attempt.prepared.retry):
        return final_state(attempt.outcome, attempt)
    _go_on_if_wanted()
    seconds = backoff_seconds(attempts)
    job.logger.info("Attempt %s follows in %s s", len(attempts) + 1, seconds)
    await asyncio.sleep(seconds)
    return None


@task(name="prepare", task_run_name="prepare", cache_policy=NO_CACHE, persist_result=False)
async def prepare(payload: object, job: Job, asked: Asked) -> Attempt | Outcome:
    """Check the payload, decide what will run, make the job's folder and checkout.

    Takes up an attempt that was left unfinished. Returns the outcome where the run ends here.
    """
    unfinished = job.store.last()
    # One that an earlier version decided, without noting the policy, is decided anew.
    if (
        unfinished is not None
        and not unfinished.published
        and (unfinished.began or unfinished.prepared.policy is not None)
    ):
        return unfinished
    try:
        return await prepare_attempt(payload, _in_task(job), asked)
    except ContainerTaskError as error:
        # Of earlier attempts' containers, some may run on.
        may_be_left = unfinished is not None and isinstance(error, EngineError)
        outcome = replace(outcome_of(error), unreached=may_be_left)
        faults = error.faults if isinstance(error, PayloadError) else ()
        await acreate_markdown_artifact(page.rejection_markdown(outcome, faults), key=REPORT_KEY)
        return _with_state(outcome, outcome)


@task(
    name="execute",
    task_run_name="execute",
    cache_policy=NO_CACHE,
    persist_result=False,
    on_running=[tell_started],
    on_completion=[tell_finished],
    on_failure=[tell_finished],
)
async def execute(attempt: Attempt, job: Job) -> Attempt:
    """Run the container to its end, and leave nothing of it on the engine."""
    job, spec = _in_task(job), attempt.prepared.spec
    lease = injected().lease
    flow_gives_up = asyncio.ensure_future(lease.sleep(flow_seconds(spec) - 1))

    async def meaning() -> Reason:
        # What is over time, the flow finishes.
        return Reason.HAND_OVER if flow_gives_up.done() else await _why_cancelled()

    cancellation = Cancellation(meaning)
    limit = asyncio.ensure_future(lease.sleep(execute_seconds(spec)))

    def expire(over: asyncio.Future[None]) -> None:
        if not over.cancelled():
            cancellation.request(Reason.DEADLINE)

    limit.add_done_callback(expire)
    try:
        executed = await execute_attempt(job, attempt, cancellation)
    finally:
        limit.cancel()
        flow_gives_up.cancel()
    if executed.outcome.name is OutcomeName.CANCELED:
        if injected().cancellation is None and cancellation.reason is Reason.CANCEL:
            # The cancellation was held back for the container's sake. What is due to the user is
            # delivered here: Prefect goes on with nothing in a process that it ends.
            async with get_client() as client:
                await steps.tell(job, client)
        raise asyncio.CancelledError
    return _with_state(executed, executed.outcome)


@task(
    name="publish",
    task_run_name="publish",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=PUBLISH_SECONDS,
)
async def publish(attempt: Attempt, job: Job, *, again: bool = False) -> Attempt:
    """Write `run.json` and the artifacts that the Prefect UI shows; `again` after a first try."""
    return await publish_attempt(_in_task(job), attempt, again=again)


async def _execute_in_time(attempt: Attempt, job: Job) -> Attempt:
    try:
        async with injected().lease.timeout(flow_seconds(attempt.prepared.spec)):
            return await _value_of(execute(attempt, job))
    except TimeoutError:
        wait = EngineWait.of(attempt.prepared.spec, Absences(job.logger.info))
        return await finish_attempt(job, job.store.last() or attempt, OVERDUE, wait=wait)


def _go_on_if_wanted() -> None:
    """Raise `CancelledError` where the task was cancelled in a step that holds that back."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _run_id() -> UUID:
    return UUID(str(runtime.flow_run.id))


def _in_task(job: Job) -> Job:
    return replace(job, logger=get_run_logger())


async def _why_cancelled() -> Reason:
    """Why asyncio cancels a run: it was told to stop, or leaves its container to be adopted.

    One that nobody would start again was; one whose worker shuts down leaves it.
    """
    cancellation = injected().cancellation
    if cancellation is not None and cancellation.reason is not None:
        return cancellation.reason
    if runtime.flow_run.id is None or runtime.deployment.id is None:
        return Reason.CANCEL
    try:
        async with asyncio.timeout(20.0), get_client() as client:
            reason = await last_word(client, _run_id())
    except Exception as error:  # noqa: BLE001 - of a server that is away comes almost anything
        get_run_logger().warning("Could not ask whether the run was cancelled: %s", error)
        return Reason.HAND_OVER
    # One that is to be started again is another process's next.
    return Reason.HAND_OVER if reason in (None, Reason.TAKEN) else reason


def _with_state(value: T, outcome: Outcome) -> T:
    """`value` as a stage's result, under a Completed state whose name tells the outcome."""
    if outcome.name is OutcomeName.SUCCEEDED:
        return value
    message = state_message(outcome)
    state: State[Any] = Completed(name=stage_name(outcome), message=message, data=value)
    return cast(T, state)


async def _value_of(stage: Coroutine[Any, Any, T]) -> T:
    """What a stage returned, out of the state that `_with_state` put it into."""
    returned = await stage
    return cast(T, await returned.aresult()) if isinstance(returned, State) else returned
