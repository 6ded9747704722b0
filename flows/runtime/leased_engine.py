"""An engine under a lease: it pauses its container and begins with none while that has run out.

At most one container of a run may run on all hosts together: where a host is cut off from the
server for nearly the others' patience, its containers stand still until it knows that they are
still its own.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from flows.attempt import Attempt
from flows.engine.contract import Engine
from flows.engine.selection import OpenEngine
from flows.engine.types import Image
from flows.errors import EngineError, EngineRefused, EngineUnavailable, WorkspaceError
from flows.payload.policy import Policy
from flows.runtime import suspension
from flows.runtime.lease import Permit
from flows.runtime.store import AttemptStore
from flows.spec import ContainerSpec


def under_permit(
    open_engine: OpenEngine, permit: Permit, store: AttemptStore | None = None
) -> OpenEngine:
    """The same engines, for one run, whose `store` notes for how long it stood still."""

    @asynccontextmanager
    async def opened(policy: Policy | None = None) -> AsyncIterator[Engine]:
        async with open_engine(policy) as engine:
            yield cast(Engine, LeasedEngine(engine, permit, store))

    return opened


class LeasedEngine:
    """Another engine, but for what has a container run."""

    def __init__(self, engine: Engine, permit: Permit, store: AttemptStore | None = None) -> None:
        self._engine = engine
        self._permit = permit
        self._store = store
        self._stands_since: float | None = None
        self._stood_seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def create(self, spec: ContainerSpec, image: Image, secrets: Mapping[str, str]) -> None:
        await self._permit.given()
        await self._engine.create(spec, image, secrets)

    async def start(self, spec: ContainerSpec) -> None:
        await self._permit.given()
        await self._engine.start(spec)

    async def unpause(self, spec: ContainerSpec) -> None:
        await self._permit.given()
        await self._engine.unpause(spec)

    @property
    def stood_seconds(self) -> float:
        """For how long it has kept its container from running, since it was opened."""
        since = self._stands_since
        return self._stood_seconds + (0.0 if since is None else time.monotonic() - since)

    async def wait(self, spec: ContainerSpec, seconds: float) -> bool:
        """Wait, at most `seconds` in which the container may run. One that stands still when an
        absence of the engine breaks this goes on at the next call, as soon as it may."""
        while True:
            if self._stands_since is not None:
                await self._stand_still(spec)
            began = time.monotonic()
            has_stopped = await self._wait_while_held(spec, seconds)
            if has_stopped is not None:
                return has_stopped
            self._stands_since = time.monotonic()
            seconds = max(0.0, seconds - (self._stands_since - began))

    async def _wait_while_held(self, spec: ContainerSpec, seconds: float) -> bool | None:
        """None where the lease ran out before that."""
        waiting = asyncio.ensure_future(self._engine.wait(spec, seconds))
        losing = asyncio.ensure_future(self._permit.lease.lost())
        try:
            await asyncio.wait([waiting, losing], return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else None
        finally:
            waiting.cancel()
            losing.cancel()

    async def _stand_still(self, spec: ContainerSpec) -> None:
        """Have the container paused until there is leave again, and then go on."""
        self._note(suspension.note_begin)
        if not self._permit.lease.is_held:
            await self._pause(spec)
        await self._permit.given()
        self._note(suspension.note_end)
        try:
            await self._engine.unpause(spec)
        except EngineUnavailable:
            self._note(suspension.note_begin)
            raise
        self._stood_seconds, self._stands_since = self.stood_seconds, None

    async def _pause(self, spec: ContainerSpec) -> None:
        try:
            await self._engine.pause(spec)
        except EngineRefused as error:
            # It must not run beside another host's.
            await self._engine.stop(spec)
            raise EngineError(
                "Prefect's server was out of reach for so long that another host may have the run "
                f"by now, and the container, which could not be paused, was stopped: {error}"
            ) from error

    def _note(self, what: Callable[[AttemptStore, Attempt], object]) -> None:
        """For a process that takes the container up, should this one die."""
        with suppress(WorkspaceError):
            if self._store is not None and (attempt := self._store.last()) is not None:
                what(self._store, attempt)
