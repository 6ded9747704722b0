"""What every step of one job needs, a request to end it, and dependency injection into its flow.

Prefect calls a flow with its parameters alone. `InjectedFlow.bind` makes a copy that has more: its
run finds that in Prefect's `FlowRunContext`, its hooks in the flow that Prefect calls them with.
A run in a process of its own is told to end by SIGTERM rather than by a `Cancellation`: that
reaches its tasks as `asyncio.CancelledError`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ParamSpec, Self, TypeVar

from prefect import Flow
from prefect.context import FlowRunContext

from flows.engine.selection import OpenEngine, open_engine
from flows.outcome import StoppedBy
from flows.runtime.store import AttemptStore, IsRunning, runs_nothing
from flows.settings import HostSettings
from flows.threads import to_the_end
from flows.workspace.logs import Logger

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Reason(StrEnum):
    """Why work is to end. The container is stopped, but for `HAND_OVER`, which leaves it to
    whichever process takes the run up next."""

    CANCEL = "cancel"
    DEADLINE = "deadline"
    HAND_OVER = "hand-over"

    @property
    def stopped_by(self) -> StoppedBy:
        """As it is published of a container; `ValueError` for `HAND_OVER`, which stops none."""
        return StoppedBy(self.value)


@dataclass(eq=False)
class CancellationRequested(Exception):
    """The attempt is to end, for `reason`."""

    reason: Reason


async def _always_cancel() -> Reason:
    return Reason.CANCEL


class Cancellation:
    """A request to end work, at most one, the first, from any thread; asyncio delivers it.

    `meaning` says what it means that asyncio cancels who waits in `unless_requested`.
    """

    def __init__(self, meaning: Callable[[], Coroutine[Any, Any, Reason]] = _always_cancel) -> None:
        self._meaning = meaning
        self._request: Future[Reason] = Future()

    @property
    def reason(self) -> Reason | None:
        """Of the request; None before there is one."""
        return self._request.result() if self._request.done() else None

    def request(self, reason: Reason) -> None:
        """Ask for the end; returns at once. What is asked after the first time changes nothing."""
        with suppress(InvalidStateError):
            self._request.set_result(reason)

    async def cancels(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which a request cancels and which is waited for even then."""
        running = asyncio.ensure_future(work)
        self._requested().add_done_callback(lambda _: running.cancel())
        return await running

    async def unless_requested(self, step: Awaitable[T]) -> T:
        """The result of `step`; a request cancels it, and raises `CancellationRequested`."""
        running = asyncio.ensure_future(step)
        either: list[asyncio.Future[Any]] = [running, self._requested()]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            reason = await to_the_end(self._meaning())
            if reason is Reason.HAND_OVER:
                raise
            self.request(reason)
        finally:
            if not running.done():
                running.cancel()
        if self.reason is not None:
            raise CancellationRequested(self.reason)
        return running.result()

    def _requested(self) -> asyncio.Future[None]:
        """Done, in the loop of the caller, as soon as there is a request.

        Not `asyncio.wrap_future`, which a loop that is closed by then makes log an error.
        """
        loop = asyncio.get_running_loop()
        requested: asyncio.Future[None] = loop.create_future()

        def wake(_: object) -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(requested.set_result, None)

        self._request.add_done_callback(wake)
        return requested


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a process gives a flow: an engine, how the process ends it, which jobs it also runs."""

    open_engine: OpenEngine = open_engine
    cancellation: Cancellation | None = None
    is_running: IsRunning = runs_nothing


class InjectedFlow(Flow[P, R]):
    """A flow to which its process may bind what Prefect has no parameter for; see `injectable`."""

    dependencies = Dependencies()

    def bind(self, dependencies: Dependencies) -> Self:
        """A copy of the flow whose runs have these."""
        bound = copy(self)
        bound.dependencies = dependencies
        return bound


def injectable(flow: Flow[P, R]) -> InjectedFlow[P, R]:
    """The decorator, above Prefect's own `@flow`."""
    made: InjectedFlow[P, R] = InjectedFlow.__new__(InjectedFlow)
    vars(made).update(vars(flow))
    return made


def injected(flow: object = None) -> Dependencies:
    """What was bound to `flow`, or to that of the run that calls this."""
    if flow is None and (context := FlowRunContext.get()) is not None:
        flow = context.flow
    return flow.dependencies if isinstance(flow, InjectedFlow) else Dependencies()


@dataclass(frozen=True, slots=True)
class Job:
    """What every step of one job needs. `secrets` are those that its payload shows, to be masked;
    None where nobody knows them any more."""

    store: AttemptStore
    logger: Logger
    open_engine: OpenEngine = open_engine
    secrets: Sequence[str] | None = field(default=(), repr=False)
    host: HostSettings = field(default_factory=HostSettings.from_environment)
