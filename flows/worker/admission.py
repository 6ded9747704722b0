"""Which of the waiting tasks may start on this host now, from figures alone.

What a task declares in `container.resources` is set aside for it while it runs; one that declares
nothing takes nothing. Tasks start in the order of their queue; a small one may pass a large one
that waits for room, until the large one has waited for long enough to have room kept for it.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from flows.engine.docker.engine import DockerEngine
from flows.errors import EngineError, EngineRefused
from flows.settings import HostSettings
from flows.units import NOTHING, Resources
from flows.workspace.logs import Logger

# How long others may pass by a task that waits for room.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task in the queue: what it declares, and for how long it waited for that.

    `missing` are capabilities that this host lacks; `goes_on`, that its container runs here
    already, so that there is nothing to make room for; `elsewhere`, the host where it may.
    """

    id: UUID
    needs: Resources = NOTHING
    missing: tuple[str, ...] = ()
    goes_on: bool = False
    elsewhere: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Admitted:
    """What may start now; why the others may not, and which never can, a sentence each."""

    start: tuple[UUID, ...]
    waits: Mapping[UUID, str]
    never: Mapping[UUID, str]


def admit(
    waiting: Iterable[Waiting], total: Resources, used: Resources, host: str, slots: int
) -> Admitted:
    """Decide on every waiting task, in the order of the queue; at most `slots` may start.

    A task that waits for a slot alone has no sentence: it is its turn that has not come.
    """
    free = total - used
    start: list[UUID] = []
    waits: dict[UUID, str] = {}
    never: dict[UUID, str] = {}
    for task in sorted(waiting, key=lambda task: not task.goes_on):
        if task.goes_on:
            if len(start) < slots:
                start.append(task.id)
                free -= task.needs
        elif task.elsewhere:
            waits[task.id] = f"waiting for {task.elsewhere}, where its container may still run"
        elif task.missing:
            waits[task.id] = f"waiting for a worker with the capability {', '.join(task.missing)}"
        elif too_much := total.lacks(task.needs):
            never[task.id] = (
                f"task.container.resources asks for {too_much}, and {host} has {total} for tasks: "
                "ask for less, or send the task to a larger host's queue"
            )
        elif lacking := free.lacks(task.needs):
            waits[task.id] = f"waiting for {lacking} on {host}"
            if task.seconds >= PATIENCE_SECONDS:
                free -= task.needs
        elif len(start) < slots:
            start.append(task.id)
            free -= task.needs
    return Admitted(tuple(start), waits, never)


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
