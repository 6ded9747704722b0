"""`RecordingEngine`: an engine that forwards every call to another one and records it.

An example of all that a further engine has to bring: this folder, and a row in
`flows.engine.selection.ENGINES`.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Self

from flows.engine.contract import Engine, Measured, Sink, Tailed
from flows.engine.images.pull import PullOptions, PullRequest
from flows.engine.types import ContainerState, Evidence, HelperImage, Image, Pong, Reclaim
from flows.payload.policy import Policy
from flows.spec import ContainerSpec, Owned
from flows.units import Resources
from tests.behaviours import busybox


class RecordingEngine(Engine):
    """Records in `calls` each method, and the image, container or object that it was about."""

    def __init__(self, policy: Policy | None = None, engine: Engine | None = None) -> None:
        self.calls: list[tuple[str, str]] = []
        self._engine = engine or busybox()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    def _for(self, method: str, about: str) -> Engine:
        self.calls.append((method, about))
        return self._engine

    async def find(self, spec: ContainerSpec) -> bool:
        return await self._for("find", spec.name).find(spec)

    async def pull(self, request: PullRequest, options: PullOptions | None = None) -> Image:
        return await self._for("pull", request.image).pull(request, options)

    async def create(self, spec: ContainerSpec, image: Image, secrets: Mapping[str, str]) -> None:
        await self._for("create", spec.name).create(spec, image, secrets)

    async def secrets(self, spec: ContainerSpec) -> Mapping[str, str]:
        return await self._for("secrets", spec.name).secrets(spec)

    async def missing_workdir(self, spec: ContainerSpec) -> bool:
        return await self._for("missing_workdir", spec.name).missing_workdir(spec)

    def tail(
        self, spec: ContainerSpec, sink: Sink, *, replay: bool = False
    ) -> AbstractAsyncContextManager[Tailed]:
        return self._for("tail", spec.name).tail(spec, sink, replay=replay)

    async def start(self, spec: ContainerSpec) -> None:
        await self._for("start", spec.name).start(spec)

    async def wait(self, spec: ContainerSpec, seconds: float) -> bool:
        return await self._for("wait", spec.name).wait(spec, seconds)

    async def stop(self, spec: ContainerSpec) -> None:
        await self._for("stop", spec.name).stop(spec)

    async def pause(self, spec: ContainerSpec) -> None:
        await self._for("pause", spec.name).pause(spec)

    async def unpause(self, spec: ContainerSpec) -> None:
        await self._for("unpause", spec.name).unpause(spec)

    async def inspect(self, spec: ContainerSpec) -> ContainerState:
        return await self._for("inspect", spec.name).inspect(spec)

    def measured(self, spec: ContainerSpec) -> AbstractAsyncContextManager[Measured]:
        return self._for("measured", spec.name).measured(spec)

    async def evidence(self, spec: ContainerSpec, since: datetime) -> Evidence:
        return await self._for("evidence", spec.name).evidence(spec, since)

    async def destroy(self, spec: ContainerSpec) -> None:
        await self._for("destroy", spec.name).destroy(spec)

    async def owned(self) -> list[Owned]:
        return await self._for("owned", "").owned()

    async def discard(self, owned: Owned) -> bool:
        return await self._for("discard", owned.name).discard(owned)

    async def capacity(self) -> Resources:
        return await self._for("capacity", "").capacity()

    async def numbers_users_anew(self, image: Image) -> bool:
        return await self._for("numbers_users_anew", image.id).numbers_users_anew(image)

    async def ping(self) -> Pong:
        return await self._for("ping", "").ping()

    async def helper_image(self, wanted: HelperImage, noted: str = "") -> str:
        return await self._for("helper_image", wanted.image).helper_image(wanted, noted)

    async def reclaim(self, reclaim: Reclaim) -> None:
        await self._for("reclaim", reclaim.name).reclaim(reclaim)
