"""An engine without Docker, held to the same contract as Docker's by the project's own tests."""

import asyncio
import os
import shutil
import stat
import time
import weakref
from collections.abc import AsyncIterator, Container, Mapping
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp

from flows.engine.contract import Engine, Measured, Sink, Tailed
from flows.engine.images.auth import Login
from flows.engine.images.failures import image_error, not_present
from flows.engine.images.progress import Take
from flows.engine.images.pull import PullOptions, PullRequest, ensure_image
from flows.engine.types import ContainerState, Evidence, HelperImage, Image, Pong, Reclaim
from flows.errors import (
    ContainerGone,
    EngineError,
    EngineRefused,
    EngineSilent,
    EngineUnavailable,
    Rejected,
)
from flows.payload.caches import cache_labels, refusal, require_owner
from flows.spec import ContainerSpec, Mount, Owned, is_named_for_its_job
from flows.testing.fake_container import FakeContainer, Program, succeed
from flows.units import Resources

_LOOK_SECONDS = 0.005


@dataclass(eq=False, repr=False)
class FakeEngine(Engine):
    """Containers in memory, in each of which `program` runs: it gets the `Process`, and returns
    the exit code.

    `images` are those that exist, in registries and here, and `folders` those in every image; None
    stands for any. `breaks_at` names a method that fails by a fault of Docker's own, after it has
    done its work half-way, so many `times`; `hangs_at` one that never answers. While it `is_away`,
    it is out of reach, and its containers run on; `leaves_at` names a method after whose work, the
    first time, it is away until somebody brings it back.
    """

    program: Program = succeed
    _: KW_ONLY
    images: Container[str] | None = None
    folders: Container[str] | None = None
    breaks_at: str = ""
    times: int = 10**6
    hangs_at: str = ""
    leaves_at: str = ""
    is_away: bool = False
    refused: int = field(default=0, init=False)
    containers: dict[str, FakeContainer] = field(default_factory=dict, init=False)
    calls: list[str] = field(default_factory=list, init=False)
    _failures: list[BaseException] = field(default_factory=list, init=False)
    _caches: dict[str, tuple[Mapping[str, str], Path]] = field(default_factory=dict, init=False)

    def take_failures(self) -> list[BaseException]:
        """What programs have raised, since this was last asked, that is no container's end."""
        taken, self._failures = self._failures, []
        return taken

    async def find(self, spec: ContainerSpec) -> bool:
        self._require_reach()
        found = self.containers.get(spec.name)
        return found is not None and found.spec.labels == spec.labels

    async def pull(self, request: PullRequest, options: PullOptions | None = None) -> Image:
        self._note("pull")
        if self.hangs_at == "pull":
            await asyncio.Event().wait()
        return await ensure_image(self, request, options or PullOptions())

    async def look(self, name: str) -> Image | None:
        return Image(f"sha256:{name}", platform="linux/amd64") if self._has(name) else None

    async def fetch(
        self, request: PullRequest, login: Login | None, take: Take, inactivity_seconds: float
    ) -> None:
        self.calls.append("fetch")
        if not self._has(request.image):
            raise image_error(request.image, "manifest unknown")

    async def may_read(
        self, request: PullRequest, login: Login | None, inactivity_seconds: float
    ) -> None:
        self.calls.append("may_read")

    async def create(self, spec: ContainerSpec, image: Image, secrets: Mapping[str, str]) -> None:
        self._require_reach()
        if spec.name in self.containers:
            raise EngineRefused(f"the name {spec.name} is in use")
        if missing := spec.secrets.keys() - secrets.keys():
            raise EngineError(f"the values of {', '.join(sorted(missing))} are not at hand")
        values = {name: secrets[name] for name in spec.secrets}
        self.containers[spec.name] = FakeContainer(spec, values, self._mounted(spec))
        self._note("create")

    async def secrets(self, spec: ContainerSpec) -> Mapping[str, str]:
        self._require_reach()
        return self._get(spec).secrets

    async def missing_workdir(self, spec: ContainerSpec) -> bool:
        self._note("missing_workdir")
        return self.folders is not None and spec.workdir not in self.folders

    @asynccontextmanager
    async def tail(
        self, spec: ContainerSpec, sink: Sink, *, replay: bool = False
    ) -> AsyncIterator[Tailed]:
        self._note("tail")
        tailed = Tailed()
        with self._get(spec).followed(sink, replay=replay):
            yield tailed
            tailed.complete = True

    async def start(self, spec: ContainerSpec) -> None:
        self._require_reach()
        self._get(spec).start(self.program)
        self._note("start")

    async def wait(self, spec: ContainerSpec, seconds: float) -> bool:
        self._note("wait")
        deadline = time.monotonic() + seconds
        while self._get(spec).state.running:
            self._require_reach()
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True

    async def stop(self, spec: ContainerSpec) -> None:
        self._note("stop")
        if container := self.containers.get(spec.name):
            container.terminate()
            deadline = time.monotonic() + spec.stop_grace_seconds
            while container.state.running and time.monotonic() < deadline:
                await asyncio.sleep(_LOOK_SECONDS)
            container.kill()

    async def pause(self, spec: ContainerSpec) -> None:
        self._note("pause")
        self._get(spec).pause()

    async def unpause(self, spec: ContainerSpec) -> None:
        self._note("unpause")
        self._get(spec).unpause()

    async def inspect(self, spec: ContainerSpec) -> ContainerState:
        self._note("inspect")
        return self._get(spec).state

    @asynccontextmanager
    async def measured(self, spec: ContainerSpec) -> AsyncIterator[Measured]:
        # Memory tells of no use.
        yield Measured()

    async def evidence(self, spec: ContainerSpec, since: datetime) -> Evidence:
        self._require_reach()
        return Evidence(exit_code=self._get(spec).state.exit_code)

    async def destroy(self, spec: ContainerSpec) -> None:
        self.calls.append("destroy")
        self._require_reach()
        if container := self.containers.pop(spec.name, None):
            container.kill()
            if container.failure is not None:
                self._failures.append(container.failure)
        if self.breaks_at == "destroy":
            raise EngineUnavailable("Docker does not answer while removing the container")

    async def owned(self) -> list[Owned]:
        self._require_reach()
        return [
            Owned("container", name, name, c.spec.labels)
            for name, c in self.containers.items()
            if is_named_for_its_job(name, c.spec.labels)
        ]

    async def discard(self, owned: Owned) -> bool:
        found = [each for each in await self.owned() if each.id == owned.id]
        if owned.job_id not in [each.job_id for each in found]:
            return False
        await self.destroy(self.containers[owned.id].spec)
        return True

    async def capacity(self) -> Resources:
        return Resources(cpus=4.0, memory_bytes=8 * 1024**3)

    async def numbers_users_anew(self, image: Image) -> bool:
        return False

    async def ping(self) -> Pong:
        self._require_reach()
        now = datetime.now(UTC)
        return Pong("memory", True, "fake", "", now, now)

    async def helper_image(self, wanted: HelperImage, noted: str = "") -> str:
        if not self._has(wanted.image):
            raise not_present(wanted.image)
        return noted or f"sha256:{wanted.image}"

    async def reclaim(self, reclaim: Reclaim) -> None:
        self._note("reclaim")
        if not reclaim.image_id:
            await self.helper_image(HelperImage(reclaim.image))
        top = Path(reclaim.mount.source)
        for path in (top, *top.rglob("*")):
            if path.is_dir() or path.is_file():
                os.chown(path, reclaim.owner.uid, reclaim.owner.gid, follow_symlinks=False)
            if not path.is_symlink() and (path.is_dir() or path.is_file()):
                mode = path.stat().st_mode
                path.chmod(stat.S_IMODE(mode) & 0o1777 | (0o700 if path.is_dir() else 0o600))

    def _has(self, image: str) -> bool:
        return self.images is None or image in self.images

    def _mounted(self, spec: ContainerSpec) -> Mapping[str, Path]:
        """The folder on disk for each mount; a cache keeps its own from run to run."""
        return {
            mount.target: self._cache(mount) if mount.kind == "cache" else Path(mount.source)
            for mount in spec.mounts
        }

    def _cache(self, mount: Mount) -> Path:
        require_owner(mount)
        if mount.source not in self._caches:
            folder = Path(mkdtemp(prefix=f"{mount.source}-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._caches[mount.source] = cache_labels(mount), folder
        labels, folder = self._caches[mount.source]
        if said := refusal(mount, labels, []):
            raise Rejected(said)
        return folder

    def _get(self, spec: ContainerSpec) -> FakeContainer:
        if spec.name not in self.containers:
            raise ContainerGone(f"the container {spec.name} is gone")
        return self.containers[spec.name]

    def _require_reach(self) -> None:
        if self.is_away:
            self.refused += 1
            raise EngineSilent("Docker does not answer: it is out of reach")

    def _note(self, method: str) -> None:
        self.calls.append(method)
        if method == self.leaves_at:
            self.leaves_at, self.is_away = "", True
        self._require_reach()
        if method == self.breaks_at and self.times:
            self.times -= 1
            raise EngineUnavailable(f"Docker does not answer while in {method}")
