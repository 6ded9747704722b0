"""The engines by name, and `open_engine`, the only place where one is made.

Another engine is a folder beside `docker` and a row in `ENGINES`.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from flows.engine.contract import Engine
from flows.engine.docker.engine import DockerEngine
from flows.payload.policy import Policy

# Opens an engine on which no container may go beyond the policy; without one, all may.
OpenEngine = Callable[[Policy | None], AbstractAsyncContextManager[Engine]]
ENGINES: dict[str, OpenEngine] = {"docker": DockerEngine}


def open_engine(
    policy: Policy | None = None, name: str = "docker"
) -> AbstractAsyncContextManager[Engine]:
    """An engine, as a context manager; it refuses to create what goes beyond `policy`."""
    return ENGINES[name](policy)
