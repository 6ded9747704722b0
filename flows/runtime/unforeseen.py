"""Go on after an exception that nobody foresaw as after a crash: with what the last try has left.

A host without file descriptors, memory or threads fails anywhere. What is known of the run is in
the attempt store, so the same work, begun again, adopts a container that runs; only when that
failed too often, the run ends, as an infrastructure failure with its report.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from prefect import get_client
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State

from flows.attempt import Attempt, Executed, infrastructure_pause
from flows.errors import ContainerTaskError, HostFailed
from flows.masking import Masker
from flows.outcome import Outcome, outcome_of
from flows.report import page
from flows.report.names import REPORT_KEY
from flows.runtime import steps
from flows.runtime.attempts import finish_attempt
from flows.runtime.context import Job
from flows.runtime.engine_wait import EngineWait
from flows.runtime.observer import Absences
from flows.runtime.run_states import final_state, starts_allowed
from flows.text import one_line
from flows.workspace.logs import LogFacts

_LONGEST = 300


async def again_where_unforeseen(
    job: Job, payload: object, work: Callable[[], Awaitable[State[Any]]]
) -> State[Any]:
    """The state that `work` comes to, begun again as often as after a crash; raises no exception
    but a `ContainerTaskError`."""
    for failed in itertools.count(1):
        try:
            return await work()
        except ContainerTaskError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on or is told
            sentence = _sentence(error, job)
            if failed > starts_allowed(payload):
                return await _ended(job, outcome_of(HostFailed(sentence)))
        pause = infrastructure_pause(failed)
        job.logger.warning("The run goes on in %s s: %s", pause, sentence)
        await asyncio.sleep(pause)
    raise AssertionError("it is counted without an end")


def unforeseen(error: Exception, job: Job | None = None) -> Outcome:
    """The outcome of a run of which nothing more is known than this exception."""
    return outcome_of(HostFailed(_sentence(error, job)))


def _sentence(error: Exception, job: Job | None) -> str:
    said = one_line(f"{type(error).__name__}: {error}", _LONGEST)
    if job is not None:
        said = Masker(job.secrets or ()).text(said)
    return (
        f"the worker or its host failed ({said}): see there whether descriptors, memory or threads "
        "are short"
    )


async def _ended(job: Job, outcome: Outcome) -> State[Any]:
    """The run's end as `outcome`, told as far as that works."""
    attempt = None
    try:
        attempt = job.store.last()
        if attempt is None or attempt.published:
            await acreate_markdown_artifact(page.rejection_markdown(outcome, ()), key=REPORT_KEY)
            return final_state(outcome)
        if attempt.executed is None:
            wait = EngineWait.of(attempt.prepared.spec, Absences(job.logger.info))
            attempt = await finish_attempt(job, attempt, outcome, wait=wait)
        async with get_client() as client:
            await steps.tell(job, client)
    except Exception as error:  # noqa: BLE001 - the sweep tells and removes what is left
        job.logger.warning("What is left of the run is for the sweep: %s", error)
        if attempt is not None and attempt.executed is None:
            attempt = job.store.keep(_given_up(attempt, outcome), job.logger.warning)
    return final_state(attempt.outcome if attempt else outcome, attempt)


def _given_up(attempt: Attempt, outcome: Outcome) -> Attempt:
    """Ended without the engine's word."""
    log, now = LogFacts(0, 0, 0, None, ""), datetime.now(UTC)
    executed = Executed(replace(outcome, unreached=attempt.began), log, attempt.started_at, now)
    return replace(attempt, executed=executed)
