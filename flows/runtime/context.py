"""What every step of one job needs, a request to end it, and dependency injection into its flow.

Prefect calls a flow with its parameters alone. `InjectedFlow.bind` makes a copy that has more: its
run finds that in Prefect's `FlowRunContext`, its hooks in the flow that Prefect calls them with.
A run in a process of its own is told to end by SIGTERM rather than by a `Cancellation`: that
reaches its tasks as `asyncio.CancelledError`.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import ParamSpec, Self, TypeVar
from uuid import UUID

from prefect import Flow
from prefect.context import FlowRunContext

from flows.engine.selection import OpenEngine, open_engine
from flows.runtime.cancellation import Cancellation
from flows.runtime.lease import UNBOUNDED, Lease, Permit
from flows.runtime.store import AttemptStore, IsRunning, runs_nothing
from flows.settings import HostSettings
from flows.workspace.logs import Logger

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a process gives a flow: an engine, how the process ends it, which jobs it also runs, and
    for how long it may act; and the request that it answers, where that is known: see
    `flows.runtime.lifecycle.request_of`."""

    open_engine: OpenEngine = open_engine
    cancellation: Cancellation | None = None
    is_running: IsRunning = runs_nothing
    lease: Lease = UNBOUNDED
    request: UUID | None = None

    @property
    def permit(self) -> Permit:
        """Leave to act for the run."""
        return Permit(self.lease, self.cancellation or Cancellation())


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
