"""Which of the waiting tasks may start on this host now, from figures alone.

What a task declares in `container.resources` is set aside for it while it runs; one that declares
nothing takes nothing. Tasks start in the order of their queue; a small one may pass a large one
that waits for room, until the large one has waited for long enough to have room kept for it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

# How long others may pass by a task that waits for room.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Resources:
    """Processors and bytes of memory."""

    cpus: float = 0.0
    memory_bytes: int = 0

    def __sub__(self, other: "Resources") -> "Resources":
        return Resources(self.cpus - other.cpus, self.memory_bytes - other.memory_bytes)

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(self.cpus + other.cpus, self.memory_bytes + other.memory_bytes)

    def lacks(self, needs: "Resources") -> "Resources":
        """What of `needs` this has too little for; nothing where they fit."""
        return Resources(
            needs.cpus if needs.cpus and needs.cpus > self.cpus + 1e-9 else 0.0,
            needs.memory_bytes if needs.memory_bytes > max(0, self.memory_bytes) else 0,
        )

    def __bool__(self) -> bool:
        return self != Resources()

    def __str__(self) -> str:
        """`2 CPUs and 4 GiB`, without what is not there."""
        cpus = f"{self.cpus:g} CPU{'s' if self.cpus != 1 else ''}" if self.cpus else ""
        memory = _bytes(self.memory_bytes) if self.memory_bytes else ""
        return " and ".join(filter(None, (cpus, memory))) or "nothing"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task in the queue: what it declares, and for how long it waited for that.

    `missing` are capabilities that this host lacks; `goes_on`, that its container runs here
    already, so that there is nothing to make room for; `elsewhere`, the host where it may.
    """

    id: UUID
    needs: Resources = Resources()
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


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
