"""`DockerEngine`: the engine contract on a Docker Engine, through prefect-docker."""

import fnmatch
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar

import docker
import docker.errors
import requests.exceptions
from prefect_docker import DockerHost
from prefect_docker.containers import (
    create_docker_container,
    remove_docker_container,
    start_docker_container,
    stop_docker_container,
)

from flows import pulling
from flows.create_arguments import (
    cache_volume_arguments,
    create_arguments,
    needs_run_volume,
    run_volume_arguments,
    run_volume_name,
)
from flows.engine_errors import NotFound, container_expected, said, translated
from flows.engine_output import Attachment
from flows.errors import EngineError, EngineRefused, Rejected
from flows.execution import ContainerState, Image, Sink
from flows.spec import LABEL_CACHE, LABEL_JOB_ID, ContainerSpec, Mount
from flows.threads import in_thread

T = TypeVar("T")

# Proxies cut requests that stay quiet for long, some at 4 minutes.
_WAIT_SLICE_SECONDS = 60.0
# How long a stopped container's last output may take to arrive.
_DRAIN_SECONDS = 30.0


class DockerEngine:
    """Talks to the engine that `host` names; by default the one of `DOCKER_HOST`.

    Use as `async with DockerEngine() as engine`. prefect-docker's tasks do what they can do;
    waiting, inspecting and following go through the block's client.
    """

    def __init__(self, host: DockerHost | None = None) -> None:
        self._host = host or DockerHost()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if "_docker" in self.__dict__:
            self._docker.close()

    async def pull(self, spec: ContainerSpec) -> Image:
        """See `flows.execution.Engine`."""
        present = None if spec.pull == "always" else await self._image(spec.image)
        if present is None and spec.pull == "never":
            raise pulling.not_present(spec.image)
        if present is None:
            await self._call(f"pulling {spec.image}", lambda: self._pull(spec.image))
            present = await self._image(spec.image)
        if present is None:
            raise pulling.image_error(spec.image, "it is missing after the pull")
        return present

    async def create(self, spec: ContainerSpec, image: Image) -> None:
        """See `flows.execution.Engine`."""
        await self._call("preparing volumes", lambda: self._prepare_volumes(spec))
        arguments = create_arguments(spec, image, self._api_version)
        with translated("creating the container"):
            await create_docker_container.fn(docker_host=self._host, **arguments)

    async def missing_workdir(self, spec: ContainerSpec) -> bool:
        """See `flows.execution.Engine`.

        Docker makes a missing working directory in the container's own layer when it creates it,
        so the layer's difference from the image tells.
        """
        changes = await self._on_container(
            spec, "looking at the working directory", lambda: self._docker.api.diff(spec.name)
        )
        return any(change["Path"] == spec.workdir for change in changes or [])

    @asynccontextmanager
    async def tail(self, spec: ContainerSpec, sink: Sink) -> AsyncIterator[None]:
        """See `flows.execution.Engine`."""
        attachment = await self._on_container(
            spec,
            "attaching to the output",
            lambda: Attachment.open(self._docker, spec.name),
        )
        attachment.copy_to(sink)
        try:
            yield
            await in_thread(lambda: attachment.drain(_DRAIN_SECONDS))
        finally:
            attachment.hang_up()

    async def start(self, spec: ContainerSpec) -> None:
        """See `flows.execution.Engine`."""
        try:
            with container_expected(spec.name), translated("starting the container"):
                await start_docker_container.fn(spec.name, docker_host=self._host)
        except EngineRefused as error:
            # The engine files a command that cannot be run under the client's errors; the
            # container's state then carries the exit code and the reason.
            if (await self.inspect(spec)).exit_code not in (126, 127):
                raise EngineError(str(error)) from error

    async def wait(self, spec: ContainerSpec, seconds: float) -> bool:
        """See `flows.execution.Engine`."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if await self._wait_slice(spec, min(left, _WAIT_SLICE_SECONDS)):
                return True
        return not (await self.inspect(spec)).running

    async def stop(self, spec: ContainerSpec) -> None:
        """See `flows.execution.Engine`."""
        with suppress(NotFound), translated("stopping the container"):
            await stop_docker_container.fn(
                spec.name, docker_host=self._host, timeout=spec.stop_grace_seconds
            )

    async def inspect(self, spec: ContainerSpec) -> ContainerState:
        """See `flows.execution.Engine`."""
        found = await self._on_container(
            spec, "inspecting the container", lambda: self._docker.api.inspect_container(spec.name)
        )
        return _state(found["State"])

    async def destroy(self, spec: ContainerSpec) -> None:
        """See `flows.execution.Engine`."""
        if await self._owns_container(spec):
            with suppress(NotFound), translated("removing the container"):
                await remove_docker_container.fn(
                    spec.name, docker_host=self._host, force=True, v=True
                )
        if any(needs_run_volume(mount, self._api_version) for mount in spec.mounts):
            await self._call("removing the run's volume", lambda: self._remove_volume(spec))

    @cached_property
    def _docker(self) -> docker.DockerClient:
        """Connected at first use, so that no answer is an `EngineError` of that use."""
        client: docker.DockerClient = self._host.get_client()
        return client

    @cached_property
    def _api_version(self) -> tuple[int, ...]:
        return tuple(map(int, str(self._docker.api.api_version).split(".")))

    async def _call(self, doing: str, function: Callable[[], T]) -> T:
        with translated(doing):
            return await in_thread(function)

    async def _on_container(self, spec: ContainerSpec, doing: str, function: Callable[[], T]) -> T:
        with container_expected(spec.name):
            return await self._call(doing, function)

    async def _wait_slice(self, spec: ContainerSpec, seconds: float) -> bool:
        def wait() -> bool:
            try:
                # requests takes fractions of a second, whatever the stubs say.
                self._docker.api.wait(spec.name, timeout=seconds)  # type: ignore[arg-type]
            except (requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError):
                # A slice that ended and a connection that broke look alike here; which it was,
                # the inspect that follows finds out.
                return False
            return True

        await self._on_container(spec, "waiting for the container", wait)
        return not (await self.inspect(spec)).running

    async def _image(self, name: str) -> Image | None:
        try:
            found = await self._call(
                f"looking for the image {name}",
                lambda: self._docker.api.inspect_image(name),  # type: ignore[no-untyped-call]
            )
        except NotFound:
            return None
        digests = [digest.partition("@")[2] for digest in found.get("RepoDigests") or []]
        return Image(found["Id"], next(iter(digests), ""))

    def _pull(self, image: str) -> None:
        repository, tag = pulling.split_reference(image)
        try:
            events = self._docker.api.pull(repository, tag=tag, stream=True, decode=True)
            pulling.follow(image, events)
        except docker.errors.APIError as error:
            raise pulling.image_error(image, said(error)) from error

    def _prepare_volumes(self, spec: ContainerSpec) -> None:
        for mount in spec.mounts:
            if mount.kind == "cache":
                self._ensure_cache(spec, mount)
            elif needs_run_volume(mount, self._api_version):
                mountpoint = self._docker.api.inspect_volume(mount.source)["Mountpoint"]
                self._docker.api.create_volume(**run_volume_arguments(spec, mount, mountpoint))

    def _ensure_cache(self, spec: ContainerSpec, mount: Mount) -> None:
        """Make the cache, or check that the volume of that name is one and nobody's data."""
        try:
            found = self._docker.api.inspect_volume(mount.source)
        except docker.errors.NotFound:
            self._docker.api.create_volume(**cache_volume_arguments(mount))
            return
        allowed = any(fnmatch.fnmatchcase(mount.source, glob) for glob in spec.allowed_volumes)
        if not allowed and LABEL_CACHE not in (found.get("Labels") or {}):
            raise Rejected(
                f"the volume {mount.source!r} exists and is not a cache of this runner: choose "
                "another name in task.container.cacheVolumes, or have an operator add it to "
                "allowed_volumes in the container policy block"
            )

    async def _owns_container(self, spec: ContainerSpec) -> bool:
        try:
            found = await self._call(
                "looking for the container",
                lambda: self._docker.api.inspect_container(spec.name),
            )
        except NotFound:
            return False
        return bool(found["Config"]["Labels"].get(LABEL_JOB_ID) == spec.job_id)

    def _remove_volume(self, spec: ContainerSpec) -> None:
        name = run_volume_name(spec)
        with suppress(docker.errors.NotFound):
            labels = self._docker.api.inspect_volume(name).get("Labels") or {}
            if labels.get(LABEL_JOB_ID) == spec.job_id:
                self._docker.api.remove_volume(name)


def _state(found: Mapping[str, Any]) -> ContainerState:
    never_ran = found["Status"] == "created" and not found["Error"]
    return ContainerState(
        running=bool(found["Running"]),
        exit_code=None if found["Running"] or never_ran else int(found["ExitCode"]),
        oom_killed=bool(found["OOMKilled"]),
        error=str(found["Error"]),
        started_at=_time(found["StartedAt"]),
        finished_at=_time(found["FinishedAt"]),
    )


def _time(value: str) -> datetime | None:
    """RFC 3339, or None for the zero time that Docker writes for "never"."""
    return None if value.startswith("0001-") else datetime.fromisoformat(value)
