"""What this host has for tasks: as its settings say, or as its engine does, less a reserve."""

import asyncio
import os

from flows.engine.docker.engine import DockerEngine
from flows.errors import EngineError, EngineRefused
from flows.settings import HostSettings
from flows.worker.admission import Resources
from flows.workspace.logs import Logger

_ENGINE_AWAY_SECONDS = 5.0
# Of the engine's memory, what is left to the host itself.
_RESERVE = 0.1


async def capacity(host: HostSettings, logger: Logger) -> Resources:
    """Processors and memory for tasks; waits for an engine that does not answer."""
    while True:
        try:
            async with DockerEngine() as engine:
                found = await engine.capacity()
            break
        except EngineRefused:
            # A proxy that tells nothing of the host: the worker is expected to be on it.
            found = _of_this_host()
            break
        except EngineError as error:
            logger.warning("No task starts here yet: %s", error)
            await asyncio.sleep(_ENGINE_AWAY_SECONDS)
    total = Resources(
        host.worker_cpus or found.cpus,
        host.worker_memory or int(found.memory_bytes * (1 - _RESERVE)),
    )
    logger.info("%s has %s for tasks", host.worker, total)
    return total


def _of_this_host() -> Resources:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Resources(float(os.cpu_count() or 1), memory)
