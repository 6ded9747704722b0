"""`docker pause` and `docker unpause`, and what is no answer to the question whether it can."""

import asyncio
from collections.abc import Awaitable, Callable

import docker

from flows.engine.docker.client import Connection
from flows.engine.types import ContainerState
from flows.errors import ContainerGone, EngineError, EngineRefused, EngineSilent

# Between the times that a fault is asked again, before it is what the engine cannot do.
_FAULT_PAUSES_SECONDS = (0.5, 1.0, 2.0)


async def set_paused(
    connection: Connection,
    name: str,
    inspect: Callable[[], Awaitable[ContainerState]],
    wanted: bool,
) -> None:
    """Pause the container, or let it go on. Raises `EngineRefused` by the engine's own word alone,
    where it says it again; an engine that is out of reach has said nothing."""

    def ask(api: docker.APIClient) -> None:
        (api.pause if wanted else api.unpause)(name)

    for pause in (*_FAULT_PAUSES_SECONDS, None):
        try:
            await connection.call("pausing or unpausing the container", ask, name)
        except (ContainerGone, EngineSilent):
            raise
        except EngineError as error:
            # The engine has the same answer for one that has stopped, or is so already, as for a
            # host whose kernel gives it no freezer, and for a fault that passes.
            state = await inspect()
            if not state.running or state.paused is wanted:
                return
            if pause is None:
                raise EngineRefused(str(error)) from error
            await asyncio.sleep(pause)
        else:
            return
