"""Prefect's API client of those who carry runs: Running and final states as compare-and-set."""

import asyncio
import os
from collections.abc import Callable
from contextvars import ContextVar
from math import isinf
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.responses import SetStateStatus, StateAbortDetails
from prefect.context import AsyncClientContext, ContextModel
from prefect.exceptions import Abort, ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL
from prefect.states import to_state_create

from flows.runtime.cancellation import CancellationRequested
from flows.runtime.context import injected
from flows.runtime.ownership import claim_id, running_id
from flows.settings import HostSettings

# Called once the run in whose context it is has the state Running.
on_begun: ContextVar[Callable[[], None]] = ContextVar("on_begun", default=lambda: None)
# A crash may leave something: who asks for the run once more is kept from it by no such state.
_ENDS = {StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED}


class RunClient(PrefectClient):
    """Gives final states the transition id of a claim, so that they refuse one that comes late, and
    Running one that is always the same, so that one process alone begins a run."""

    async def raise_for_api_version_mismatch_once(self) -> None:
        """As Prefect's own, but for a server that is away: those who ask it wait for it."""
        try:
            await super().raise_for_api_version_mismatch_once()
        except RuntimeError as error:
            # One that answers, and is of another version, is no cause of another error.
            if not isinstance(error.__cause__, httpx.TransportError):
                raise

    async def set_flow_run_state(
        self, flow_run_id: UUID | str, state: State[Any], force: bool = False
    ) -> OrchestrationResult[Any]:
        """As Prefect's own, but only while the worker that runs the flow may act for the run."""
        permit = injected().permit
        while True:
            try:
                await permit.to_tell()
            except CancellationRequested as requested:
                raise Abort("another host has the run now") from requested
            left = permit.lease.seconds_left
            try:
                # A request that is tried again must not come through after that.
                async with asyncio.timeout(None if isinf(left) else left):
                    return await self._set(flow_run_id, state, force)
            except TimeoutError:
                if permit.lease.is_held:
                    raise

    async def _set(
        self, flow_run_id: UUID | str, state: State[Any], force: bool
    ) -> OrchestrationResult[Any]:
        run_id = UUID(str(flow_run_id))
        if state.type is StateType.RUNNING and not force:
            return await self._begin(run_id, state)
        if state.type in _ENDS:
            result = await propose(self, run_id, state, claim_id(run_id), force=force)
            if not is_refused_as_claim(result):
                return result
        return await super().set_flow_run_state(run_id, state, force)

    async def _begin(self, run_id: UUID, state: State[Any]) -> OrchestrationResult[Any]:
        # Whoever asks again, as the answer was lost, knows the state for its own.
        ours = state.message = f"on {HostSettings().worker}, process {os.getpid()}"
        result = await propose(self, run_id, state, running_id(run_id))
        held = result.state if result.status is SetStateStatus.REJECT else None
        if held is not None and held.is_running() and held.message != ours:
            details = StateAbortDetails(reason=f"It runs already: {held.message}")
            return OrchestrationResult(state=held, status=SetStateStatus.ABORT, details=details)
        if result.state is not None and result.state.is_running():
            on_begun.get()()
        return result


class RunClientContext(AsyncClientContext):
    """Has whoever asks Prefect for a client in this context share a `RunClient`."""

    def __init__(self) -> None:
        client = RunClient(
            PREFECT_API_URL.value(),
            auth_string=PREFECT_API_AUTH_STRING.value(),
            api_key=PREFECT_API_KEY.value(),
        )
        ContextModel.__init__(self, client=client)


def is_refused_as_claim(result: OrchestrationResult[Any]) -> bool:
    """Whether the run is claimed and has not begun: its claim has the very transition id."""
    is_refused = result.status is SetStateStatus.REJECT
    return is_refused and result.state is not None and result.state.is_pending()


async def propose(
    client: PrefectClient,
    run_id: UUID,
    state: State[Any],
    transition_id: UUID,
    *,
    force: bool = False,
) -> OrchestrationResult[Any]:
    """Propose a state with this transition id, once; Prefect's own call takes one at random."""
    wanted = to_state_create(state)
    wanted.state_details.flow_run_id = run_id
    wanted.state_details.transition_id = transition_id
    body = {"state": wanted.model_dump(mode="json", serialize_as_any=True), "force": force}
    try:
        response = await client.request(
            "POST", "/flow_runs/{id}/set_state", path_params={"id": run_id}, json=body
        )
    except PrefectHTTPStatusError as error:
        if error.response.status_code == 404:
            raise ObjectNotFound(http_exc=error) from error
        raise
    return OrchestrationResult[Any].model_validate(response.json())
