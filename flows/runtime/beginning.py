"""What a process that was given a run knows of it before it begins: what it answers to, and what is
left of an attempt that nobody may go on with."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from uuid import UUID

from prefect import get_client, runtime
from prefect.context import FlowRunContext

from flows.attempt import Attempt
from flows.errors import EngineUnavailable
from flows.outcome import UNREADABLE, Outcome
from flows.runtime import steps
from flows.runtime.context import Job, injected
from flows.runtime.driver import record_of
from flows.runtime.history import request_of
from flows.runtime.run_states import fence_of, history_of, starts_allowed

T = TypeVar("T")
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a process was given a run for: the `request` that it answers, None where nobody knows,
    and how often other hosts had taken the run over."""

    request: UUID | None = None
    fence: int = 0


async def asked_for(job: Job) -> Asked:
    """By the worker that claimed the run; else by its history."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    fence = fence_of(run) if run else 0
    if (known := injected().request) is not None:
        return Asked(known, fence)
    is_first = (runtime.flow_run.run_count or 1) < 2
    # Nobody puts a run without a deployment into a queue.
    if run is None or (is_first and runtime.deployment.id is None):
        return Asked(None, fence)
    _, record = record_of(job)
    async with get_client() as client:
        return Asked(request_of(await history_of(client, run.id), record), fence)


async def clear(job: Job, payload: object, attempt: Attempt | None) -> Outcome | None:
    """Remove what is left of an attempt of another fence, or whose record (`attempt` is None)
    cannot be read; the outcome where the run ends here."""
    if attempt is not None:
        await _once_the_engine_answers(job, partial(steps.let_go, job, attempt))
        return None
    had_container = await _once_the_engine_answers(job, partial(steps.set_aside, job))
    job.logger.warning("Of an earlier attempt, %s", UNREADABLE.error)
    return UNREADABLE if had_container and not starts_allowed(payload) else None


async def close(job: Job) -> None:
    """End an attempt that answers an earlier request as canceled, and tell it; patiently."""
    pause = _PAUSE_SECONDS
    while True:
        try:
            async with get_client() as client:
                return await _once_the_engine_answers(job, partial(steps.close, job, client))
        except Exception as error:  # noqa: BLE001 - of a server that is away comes almost anything
            job.logger.warning("Waiting, to tell of an earlier attempt: %s", error)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)


async def _once_the_engine_answers(job: Job, step: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await step()
        except EngineUnavailable as error:
            job.logger.warning("Waiting for the engine, to end an earlier attempt: %s", error)
            await asyncio.sleep(_PAUSE_SECONDS)
