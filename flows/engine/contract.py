"""The contract of an engine: what a run asks of whatever runs containers."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from flows.engine.images.pull import PullOptions, PullRequest
from flows.engine.types import (
    ContainerState,
    Evidence,
    HelperImage,
    Image,
    Point,
    Pong,
    Reclaim,
    Usage,
)
from flows.spec import ContainerSpec, Owned
from flows.units import Resources


class Sink(Protocol):
    """Takes container output as it comes. Called from any one thread at a time; never raises."""

    def write(self, chunk: bytes) -> None:
        """Take the next bytes of the merged stdout and stderr."""


@dataclass(slots=True)
class Tailed:
    """How a container's output came, known after the block of `Engine.tail`.

    `reconnects` counts breaks that output followed; `complete` says that the sink has all of it.
    """

    reconnects: int = 0
    complete: bool = False


@dataclass(slots=True)
class Measured:
    """What a container used so far; renewed while it runs. `points` are its life, oldest first."""

    usage: Usage = field(default_factory=Usage)
    points: tuple[Point, ...] = ()


class Engine(Protocol):
    """What runs containers. Every method takes the spec; none returns a handle.

    Each raises `EngineError` and nothing else, and may be called from any process: names are known
    before the objects exist.
    """

    @property
    def stood_seconds(self) -> float:
        """For how long it has kept its container from running, which is no part of any limit."""
        return 0.0

    async def find(self, spec: ContainerSpec) -> bool:
        """Whether a container made for this very spec exists: name, job, fingerprint and the mount
        of the job's folder agree."""

    async def pull(self, request: PullRequest, options: PullOptions | None = None) -> Image:
        """Make the image present as `request` says, with what `options` give for it; see
        `flows.engine.images.pull.ensure_image`.

        Raises `ImageError`. A caller that is cancelled ends the pull on the engine too, and leaves
        no thread behind."""

    async def create(self, spec: ContainerSpec, image: Image, secrets: Mapping[str, str]) -> None:
        """Create the container, and what it needs, without starting it; `destroy` removes what was
        made.

        `secrets` has the value of each variable in `spec.secrets`, or it raises `EngineError`.
        Raises `EngineRefused` where the engine will not make it as specified, `Rejected` where it
        would mount what is not the task's."""

    async def secrets(self, spec: ContainerSpec) -> Mapping[str, str]:
        """What the variables in `spec.secrets` hold in the container, or raises `ContainerGone`."""

    async def missing_workdir(self, spec: ContainerSpec) -> bool:
        """Whether the created container's image has no folder at `spec.workdir`."""

    def tail(
        self, spec: ContainerSpec, sink: Sink, *, replay: bool = False
    ) -> AbstractAsyncContextManager[Tailed]:
        """Copy the container's output to `sink`, unchanged and in the order of each stream; with
        `replay`, everything that it ever wrote comes first.

        Entered between `create` and `start` and left after the container has stopped, nothing is
        lost. A connection that breaks is taken up again where it was; the value tells."""

    async def start(self, spec: ContainerSpec) -> None:
        """Start the created container. A command that cannot be run is no error: `inspect` then
        tells of a container that has ended with 126 or 127 and why."""

    async def wait(self, spec: ContainerSpec, seconds: float) -> bool:
        """Wait, at most `seconds`; whether the container has stopped. Raises `ContainerGone`."""

    async def stop(self, spec: ContainerSpec) -> None:
        """SIGTERM, `spec.stop_grace_seconds`, SIGKILL; returns when the container has stopped.
        Safe on one that has stopped already or is gone."""

    async def pause(self, spec: ContainerSpec) -> None:
        """Freeze the container's processes, which keep their memory. Safe on one that is paused,
        has stopped or was never started. Raises `ContainerGone`, `EngineRefused` where the engine
        cannot, or `EngineUnavailable` where it does not say whether it can. `stop` and `destroy`
        end one that is paused as any other."""

    async def unpause(self, spec: ContainerSpec) -> None:
        """Let the container's processes go on. Safe on one that is not paused; raises as `pause`
        does."""

    async def inspect(self, spec: ContainerSpec) -> ContainerState:
        """The state as the engine tells it now, never a remembered one. Raises `ContainerGone`."""

    def measured(self, spec: ContainerSpec) -> AbstractAsyncContextManager[Measured]:
        """Sample what the container uses while the block runs. Never fails a task: an engine
        that tells nothing leaves a `Usage` that says so."""

    async def evidence(self, spec: ContainerSpec, since: datetime) -> Evidence:
        """What the engine's own events say of the container's end. Empty where they are gone.

        Raises `EngineUnavailable` also where the engine is about to shut down."""

    async def destroy(self, spec: ContainerSpec) -> None:
        """Remove everything that `create` makes for this spec, running or not, and nothing that is
        not this job's own. Safe at any time and any number of times, after half a `create` too."""

    async def owned(self) -> list[Owned]:
        """Every container and per-run volume that is a job's own, of any job, by more than its
        label: see `flows.spec.is_named_for_its_job`. Containers come first, as what one of them
        uses cannot be removed before it."""

    async def discard(self, owned: Owned) -> bool:
        """Remove one such object if it still is its job's own; whether it was removed."""

    async def capacity(self) -> Resources:
        """The size of its host. Raises `EngineRefused` where a proxy keeps it from being told."""

    async def numbers_users_anew(self, image: Image) -> bool:
        """Whether the users of containers, here of `image`, have other numbers than on its host, or
        nobody can tell."""
        return True

    async def ping(self) -> Pong:
        """Who answers, and what its clock says. Raises `EngineUnavailable` where nobody does."""

    async def helper_image(self, wanted: HelperImage, noted: str = "") -> str:
        """The id of the image for `reclaim`: the `noted` one where it is still there, else that of
        the name, made for the engine's own platform, whatever others pulled under it.

        Raises `ImageError`."""

    async def reclaim(self, reclaim: Reclaim) -> None:
        """Make every file and folder of one job's folder its owner's, open to it, and no program
        there one that gives its user somebody else's rights. Follows no link.

        Raises `ImageError` where the image for it cannot be had. Leaves nothing on the engine; a
        second time does it again, also after a first that died half-way."""
