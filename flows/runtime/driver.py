"""The driver of runs that no process carries: look, ask `lifecycle` for the next step, do it.

Hooks, the sweep and whoever lets go of a run call it; of two that do, one holds the job's lock.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Crashed

from flows.attempt import Attempt, is_retried
from flows.errors import ContainerGone, EngineError
from flows.outcome import ABANDONED, UNREADABLE, FailureClass
from flows.payload.parse import secrets_of
from flows.report.events import send_events
from flows.runtime import lifecycle, steps
from flows.runtime.api_client import is_refused_as_claim, propose
from flows.runtime.context import Job
from flows.runtime.elsewhere import attempts_elsewhere
from flows.runtime.engine_wait import EngineWait
from flows.runtime.lifecycle import Claim, Container, Phase, RecordView, Step
from flows.runtime.ownership import claim_id
from flows.runtime.run_states import (
    cancelled_state,
    final_state,
    history_of,
    host_of,
    read_run,
    restarted_state,
    view_of,
)
from flows.runtime.store import Busy, RecordUnreadable
from flows.runtime.suspension import pause
from flows.spec import is_expired

# Far more than lie between any state and its end.
_MOST_STEPS = 10
_RESTING = (Step.NOTHING, Step.WAIT)


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known of a job now, and the step that follows from it."""

    step: Step
    run: FlowRun | None
    attempt: Attempt | None = None
    replaced: State[Any] | None = None


async def drive(job: Job, client: PrefectClient, *, is_lost: bool = False) -> list[Step]:
    """Bring a job that no process carries as far as it goes now; the steps that were done.

    `is_lost` says that nobody is about to begin it though its run is Pending. Ends with WAIT where
    the engine does not answer; none are done while a process works on the job.
    """
    done: list[Step] = []
    try:
        with job.store.held():
            seen, can_tell = set[tuple[Step, object]](), True
            for _ in range(_MOST_STEPS):
                now = await look(job, client, is_lost=is_lost, can_tell=can_tell)
                # What the server did not take is not proposed again before the next look at it.
                if now.step is Step.NOTHING or (key := _key_of(now)) in seen:
                    break
                seen.add(key)
                done.append(now.step)
                if now.step is Step.WAIT:
                    break
                can_tell &= await _do(job, client, now)
    except Busy:
        job.logger.info("Another process works on this job; it will end it")
    except EngineError as error:
        job.logger.warning("Waiting for the engine: %s", error)
        done[-1] = Step.WAIT
    return done


def _key_of(now: Situation) -> tuple[Step, object]:
    return now.step, now.run.state_id if now.run else None


async def look(
    job: Job, client: PrefectClient, *, is_lost: bool = False, can_tell: bool = True
) -> Situation:
    """What the server, the store and the engine say of a job, and the step that follows.

    Without `can_tell`, what has ended counts as told.
    """
    run = await read_run(client, job.store.job_id)
    attempt, record = record_of(job)
    if not can_tell and record.phase is Phase.ENDED:
        record = replace(record, phase=Phase.TOLD)
    view, claim = None, Claim(job.host.worker)
    if run is not None and run.state is not None:
        states = await history_of(client, run.id) if _may_have_died(run.state, is_lost) else []
        view = view_of(run, states, record, is_lost=is_lost)
        if attempt is not None and host_of(run) == attempt.prepared.spec.worker:
            # The host has a new name since then.
            claim = Claim(attempt.prepared.spec.worker)
    container = await _container_of(job, attempt, record)
    step = lifecycle.next_step(view, record, container, claim)
    return Situation(step, run, attempt, view.replaced if view else None)


def _may_have_died(state: State[Any], is_lost: bool) -> bool:
    return state.is_running() or state.is_crashed() or (is_lost and state.is_pending())


def record_of(job: Job) -> tuple[Attempt | None, RecordView]:
    """The newest attempt, and the view of it for `lifecycle`."""
    try:
        attempts = job.store.attempts()
    except RecordUnreadable:
        return None, RecordView(Phase.UNREADABLE)
    if not attempts:
        return None, RecordView()
    newest, executed = attempts[-1], attempts[-1].executed
    is_given_up = executed is not None and executed.outcome.failure_class is FailureClass.WORKER
    is_abandoned = is_given_up and not newest.taken
    return newest, RecordView(
        phase=_phase_of(newest),
        answers=newest.answers,
        is_retried=is_retried(attempts, newest.prepared.retry) and not is_abandoned,
        fence=newest.fence,
        is_abandoned=is_abandoned,
        is_past=is_expired(newest.prepared.spec.labels, datetime.now(UTC)),
    )


def _phase_of(attempt: Attempt) -> Phase:
    if attempt.published:
        return Phase.TOLD
    if attempt.executed is not None:
        return Phase.ENDED
    return Phase.BEGAN if attempt.began else Phase.PREPARED


async def _container_of(job: Job, attempt: Attempt | None, record: RecordView) -> Container:
    """What the engine says, asked where there may be a container."""
    if attempt is None or record.phase is not Phase.BEGAN:
        return Container.ABSENT
    spec = attempt.prepared.spec
    try:
        async with job.open_engine(None) as engine:
            # At once, also where the engine takes questions and gives no answers.
            wait = EngineWait(0.0)
            if not await wait.ask(partial(engine.find, spec)):
                return Container.ABSENT
            state = await wait.ask(partial(engine.inspect, spec))
    except ContainerGone:
        return Container.ABSENT
    except EngineError:
        return Container.UNKNOWN
    if state.running:
        return Container.PAUSED if state.paused else Container.RUNNING
    return Container.CREATED if state.started_at is None else Container.STOPPED


async def _do(job: Job, client: PrefectClient, now: Situation) -> bool:
    """Do the step; whether the server takes what it is told."""
    run, attempt = now.run, now.attempt
    job = replace(job, secrets=secrets_of(run.parameters.get("payload")) if run else None)
    if now.step is Step.TELL:
        try:
            await (steps.tell if run else steps.tell_unseen)(job, client)
        except Exception as error:  # noqa: BLE001 - what cannot be told now holds up no state
            job.logger.warning("What is left to be told of the run is for the sweep: %s", error)
            return False
    elif now.step is Step.SET_ASIDE:
        await steps.set_aside(job)
    elif attempt is not None and now.step in _OF_ATTEMPT:
        await _OF_ATTEMPT[now.step](job, attempt)
    elif run is not None:
        await _send_events(client, run, now)
        await _set(client, run, _state_for(now, job))
    return True


async def _send_events(client: PrefectClient, run: FlowRun, now: Situation) -> None:
    """Those of an end, whose process perhaps died before they were sent."""
    if now.step is Step.SET_END and now.attempt is not None:
        await send_events(client, now.attempt)
    elif now.step is Step.SET_CRASHED:
        await attempts_elsewhere(client, run.id)


async def _set(client: PrefectClient, run: FlowRun, state: State[Any]) -> None:
    """Propose a state; one that ends the run refuses claims that come after it."""
    if state.is_final() and not state.is_crashed():
        result = await propose(client, run.id, state, claim_id(run.id))
        if not is_refused_as_claim(result):
            return
    await client.set_flow_run_state(run.id, state)


_OF_ATTEMPT: Mapping[Step, Callable[[Job, Attempt], Awaitable[object]]] = {
    Step.REMOVE: steps.let_go,
    Step.PAUSE: pause,
    Step.END_CANCELED: steps.end_canceled,
    Step.END_ABANDONED: steps.end_abandoned,
}


def _state_for(now: Situation, job: Job) -> State[Any]:
    step, attempt = now.step, now.attempt
    if step is Step.SET_AGAIN and now.replaced is not None:
        return now.replaced
    if step is Step.RESTART:
        return restarted_state()
    if step is Step.SET_CANCELLED:
        return cancelled_state(attempt)
    if step is Step.SET_END and attempt is not None:
        return final_state(attempt.outcome, attempt)
    return Crashed(message=(UNREADABLE if job.store.was_set_aside else ABANDONED).error)
