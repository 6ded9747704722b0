"""Where a run's engine comes from: the Docker Engine of this host, unless a test says otherwise."""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar

from flows.engine.contract import Engine
from flows.engine.docker.engine import DockerEngine
from flows.payload.policy import Policy

# Opens an engine on which no container may go beyond the policy; without one, all may.
OpenEngine = Callable[[Policy | None], AbstractAsyncContextManager[Engine]]


def _docker(policy: Policy | None) -> AbstractAsyncContextManager[Engine]:
    return DockerEngine(policy=policy)


_opens: ContextVar[OpenEngine] = ContextVar("opens_engine", default=_docker)


def open_engine(policy: Policy | None = None) -> AbstractAsyncContextManager[Engine]:
    """The engine that a run's container is made on: `async with open_engine() as engine`.

    Everything that a run asks of an engine goes through here: its stages, its hooks, and what ends
    it after its process died. The worker and the sweep look after the Docker Engine of their host.
    """
    return _opens.get()(policy)


@contextmanager
def engines_from(opens: OpenEngine) -> Iterator[None]:
    """Have the runs that are started in this block open their engines with `opens`.

    A context variable, so it holds for the block's own tasks and threads, and for no other run of
    this process.
    """
    token = _opens.set(opens)
    try:
        yield
    finally:
        _opens.reset(token)
