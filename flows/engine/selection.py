"""Where a run's engine comes from: the Docker Engine of this host, unless a test says otherwise."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from flows.engine.contract import Engine
from flows.engine.docker.engine import DockerEngine
from flows.payload.policy import Policy

# Opens an engine on which no container may go beyond the policy; without one, all may.
OpenEngine = Callable[[Policy | None], AbstractAsyncContextManager[Engine]]


def open_engine(policy: Policy | None = None) -> AbstractAsyncContextManager[Engine]:
    """The engine that a run's container is made on: `async with open_engine() as engine`.

    Everything that a run asks of an engine goes through here: its stages, its hooks, and what ends
    it after its process died. The worker and the sweep look after the Docker Engine of their host.
    """
    return DockerEngine(policy=policy)
