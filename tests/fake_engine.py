"""An engine without Docker, held to the same contract by tests/test_engine_contract.py.

A command is the name of a behaviour with its arguments; see `_behave`.
"""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from flows.engine_contract import Measured, Sink, Tailed
from flows.errors import ContainerGone, EngineRefused, EngineUnavailable
from flows.evidence import Evidence
from flows.image_names import Wanted
from flows.images import Supply, Take, obtain
from flows.outcomes import ContainerState, Image
from flows.ownership import Reclaim
from flows.pulling import image_error, not_present
from flows.registries import Login
from flows.spec import ContainerSpec


@dataclass
class _Container:
    spec: ContainerSpec
    output: list[bytes] = field(default_factory=list)
    sinks: list[Sink] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    exit_code: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    life: asyncio.Task[None] | None = None
    loop: asyncio.AbstractEventLoop | None = None

    def end(self, exit_code: int) -> None:
        """End it, from whatever loop."""
        if self.loop is not None and self.loop is not asyncio.get_running_loop():
            asyncio.run_coroutine_threadsafe(self._end(exit_code), self.loop).result(5)
            return
        if not self.ended.is_set():
            self.exit_code = exit_code
            self.finished_at = datetime.now(UTC)
            self.ended.set()
        if self.life:
            self.life.cancel()

    async def _end(self, exit_code: int) -> None:
        self.end(exit_code)

    def print(self, text: bytes) -> None:
        self.output.append(text)
        for sink in self.sinks:
            sink.write(text)


class FakeEngine:
    """Containers in memory.

    `images` are those present. `breaks_at` names a method that fails as if Docker were gone, after
    it has done its work half-way, so many `times`; `hangs_at` one that never answers.
    """

    def __init__(
        self,
        images: tuple[str, ...] = (),
        breaks_at: str = "",
        times: int = 10**6,
        hangs_at: str = "",
    ) -> None:
        self.containers: dict[str, _Container] = {}
        self.calls: list[str] = []
        self._images = images
        self._breaks_at = breaks_at
        self._breaks_left = times
        self._hangs_at = hangs_at

    async def find(self, spec: ContainerSpec) -> bool:
        found = self.containers.get(spec.name)
        return found is not None and found.spec.labels == spec.labels

    async def pull(self, spec: ContainerSpec, supply: Supply | None = None) -> Image:
        self._note("pull")
        if self._hangs_at == "pull":
            await asyncio.Event().wait()
        return await obtain(self, spec, supply or Supply())

    async def look(self, name: str) -> Image | None:
        return Image(f"sha256:{name}", platform="linux/amd64") if name in self._images else None

    async def fetch(
        self, spec: Wanted, login: Login | None, take: Take, inactivity_seconds: float
    ) -> None:
        self.calls.append("fetch")
        raise image_error(spec.image, "manifest unknown")

    async def may_read(self, spec: Wanted, login: Login | None, inactivity_seconds: float) -> None:
        self.calls.append("may_read")

    async def create(self, spec: ContainerSpec, image: Image) -> None:
        if spec.name in self.containers:
            raise EngineRefused(f"the name {spec.name} is in use")
        self.containers[spec.name] = _Container(spec)
        self._note("create")

    async def secrets(self, spec: ContainerSpec) -> Mapping[str, str]:
        return {name: f"value of {block}" for name, block in self._get(spec).spec.secrets.items()}

    async def missing_workdir(self, spec: ContainerSpec) -> bool:
        self._note("missing_workdir")
        return spec.workdir not in ("/", "/bin")

    @asynccontextmanager
    async def tail(
        self, spec: ContainerSpec, sink: Sink, *, replay: bool = False
    ) -> AsyncIterator[Tailed]:
        self._note("tail")
        container, tailed = self._get(spec), Tailed()
        if replay:
            sink.write(b"".join(container.output))
        container.sinks.append(sink)
        yield tailed
        tailed.complete = True

    async def start(self, spec: ContainerSpec) -> None:
        container = self._get(spec)
        container.started_at = datetime.now(UTC)
        container.loop = asyncio.get_running_loop()
        container.life = asyncio.create_task(_behave(container, *spec.command))
        self._note("start")

    async def wait(self, spec: ContainerSpec, seconds: float) -> bool:
        self._note("wait")
        ended = self._get(spec).ended
        try:
            await asyncio.wait_for(ended.wait(), seconds)
        except TimeoutError:
            return False
        self._get(spec)
        return True

    async def stop(self, spec: ContainerSpec) -> None:
        self._note("stop")
        if container := self.containers.get(spec.name):
            container.end(137 if spec.command[0] == "ignore-sigterm" else 143)

    async def inspect(self, spec: ContainerSpec) -> ContainerState:
        self._note("inspect")
        container = self._get(spec)
        running = container.started_at is not None and not container.ended.is_set()
        return ContainerState(
            running=running,
            exit_code=container.exit_code,
            oom_killed=spec.command[0] == "eat-memory" and not running,
            started_at=container.started_at,
            finished_at=container.finished_at,
        )

    @asynccontextmanager
    async def measured(self, spec: ContainerSpec) -> AsyncIterator[Measured]:
        yield Measured()

    async def evidence(self, spec: ContainerSpec, since: datetime) -> Evidence:
        return Evidence(exit_code=self._get(spec).exit_code)

    async def destroy(self, spec: ContainerSpec) -> None:
        self.calls.append("destroy")
        if container := self.containers.pop(spec.name, None):
            container.end(137)
        if self._breaks_at == "destroy":
            raise EngineUnavailable("Docker does not answer while removing the container")

    async def reclaim(self, reclaim: Reclaim) -> None:
        self._note("reclaim")
        if reclaim.image not in self._images:
            raise not_present(reclaim.image)
        top = Path(reclaim.mount.source)
        for path in (top, *top.rglob("*")):
            if path.is_dir() or path.is_file():
                os.chown(path, reclaim.owner.uid, reclaim.owner.gid, follow_symlinks=False)
            if not path.is_symlink() and (path.is_dir() or path.is_file()):
                mode = path.stat().st_mode
                path.chmod(stat.S_IMODE(mode) & 0o1777 | (0o700 if path.is_dir() else 0o600))

    def _get(self, spec: ContainerSpec) -> _Container:
        if spec.name not in self.containers:
            raise ContainerGone(f"the container {spec.name} is gone")
        return self.containers[spec.name]

    def _note(self, method: str) -> None:
        self.calls.append(method)
        if method == self._breaks_at and self._breaks_left:
            self._breaks_left -= 1
            raise EngineUnavailable(f"Docker does not answer while in {method}")


async def _behave(container: _Container, behaviour: str, *words: str) -> None:
    match behaviour:
        case "print":
            container.print(" ".join(words).encode() + b"\n")
            container.end(0)
        case "exit":
            container.end(int(words[0]))
        case "eat-memory":
            container.end(137)
        case "sleep" | "ignore-sigterm":
            await asyncio.sleep(float(words[0]))
            container.end(0)
        case _:
            container.print(b"not found\n")
            container.end(127)
