"""What the server says of a run, read again by the process that carries it: whether to go on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound

from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.history import replaced
from flows.runtime.lifecycle import Claim, RunView, why_stop
from flows.runtime.ownership import is_claimable
from flows.runtime.run_states import HOST_LABEL, history_of
from flows.workspace.logs import Logger

_LOOK_SECONDS = 10.0
# Prefect's own worker, or its engine, sees to these in a process of its own.
_PREFECTS = (Reason.CANCEL, Reason.TAKEN)


async def last_word(client: PrefectClient, run_id: UUID) -> Reason | None:
    """Why the run is to stop, by the state that it has now; None to go on.

    Asked right before a state is set: the server lets nearly every state follow nearly every other.
    """
    try:
        state = (await client.read_flow_run(run_id)).state
    except ObjectNotFound:
        return Reason.DELETED
    return reason_in(state)


async def word_on_claimed(client: PrefectClient, run: FlowRun, host: str) -> Reason | None:
    """The same, of a run that `host` claimed as it was then and has not begun, by all its states.

    The server takes a claim that comes late: a final state that it came after, or one in which the
    run waits for another host, is set again.
    """
    states = await history_of(client, run.id)
    if not states:
        return Reason.DELETED
    before = states[-2] if len(states) > 1 else None
    if (ended := replaced(states)) is not None:
        await client.set_flow_run_state(run.id, ended)
        return Reason.SETTLED
    if before is not None and states[-1].is_pending() and before.is_scheduled():
        label = (run.labels or {}).get(HOST_LABEL)
        if not is_claimable(states[:-1], str(label or "") or None, run.id, host):
            await client.set_flow_run_state(run.id, before)
            return Reason.TAKEN
    return reason_in(states[-1])


async def last_word_if_told(
    client: PrefectClient, run_id: UUID, logger: Logger, seconds: float | None = None
) -> Reason | None:
    """The same; None also where the server is away, for the state that follows waits for it too,
    or says nothing for some `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            return await last_word(client, run_id)
    except Exception as error:  # noqa: BLE001 - of a server that is away comes almost anything
        said = str(error) or "it does not answer"
        logger.warning("Could not ask whether the run is still wanted: %s", said)
        return None


def reason_in(state: State[Any] | None) -> Reason | None:
    """The same, of a state that was read; whose the run is, labels tell."""
    if state is None:
        return None
    host = ""
    return why_stop(RunView(state.type, host), Claim(host))


@asynccontextmanager
async def listening(
    cancellation: Cancellation, run_id: UUID, logger: Logger
) -> AsyncIterator[None]:
    """For the block, look every ten seconds whether the run is to stop, where no worker of ours
    does: Prefect's own looks for a cancellation alone."""

    async def listen() -> None:
        while cancellation.reason is None:
            await asyncio.sleep(_LOOK_SECONDS)
            async with get_client() as client:
                reason = await last_word_if_told(client, run_id, logger)
            if reason is not None and reason not in _PREFECTS:
                cancellation.request(reason)

    listening = asyncio.create_task(listen())
    try:
        yield
    finally:
        listening.cancel()
