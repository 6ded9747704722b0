"""`DockerEngine`: the engine contract on a Docker Engine, by docker-py and prefect-docker."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Self

import docker
import requests.exceptions
from prefect_docker import DockerHost
from prefect_docker.containers import create_docker_container, start_docker_container

from flows.engine.contract import Engine, Measured, Sink, Tailed
from flows.engine.docker.client import Connection, NotFound, is_local, ping, translated
from flows.engine.docker.evidence import read_evidence
from flows.engine.docker.guard import require_within
from flows.engine.docker.helper import run_reclaim
from flows.engine.docker.images import DockerImages, numbers_users_anew
from flows.engine.docker.link_local import refuse_link_local
from flows.engine.docker.logs import Attachment
from flows.engine.docker.network import ensure_task_network
from flows.engine.docker.options import create_arguments
from flows.engine.docker.ownership import list_owned, remove_own, shows_a_job
from flows.engine.docker.pausing import set_paused
from flows.engine.docker.state import state_of
from flows.engine.docker.stats import Sampler
from flows.engine.docker.volumes import (
    create_volumes,
    needs_run_volume,
    remove_caches,
    remove_run_volume,
)
from flows.engine.images.pull import PullOptions, PullRequest, ensure_image
from flows.engine.types import ContainerState, Evidence, HelperImage, Image, Pong, Reclaim
from flows.errors import EngineError, EngineRefused, WorkdirMissing
from flows.payload.policy import Policy
from flows.spec import LABEL_JOB_ID, LABEL_SPEC, TASK_NETWORK, ContainerSpec, Owned
from flows.threads import in_thread
from flows.units import Resources

# The kind of a path in a container's difference from its image.
_ADDED = 1
# Proxies cut requests that stay quiet for long, some at 4 minutes.
_WAIT_SLICE_SECONDS = 60.0
# How long a stopped container's last output may keep silent before it is given up.
_DRAIN_SECONDS = 30.0


class DockerEngine(Engine):
    """The contract on the engine of `host`, by default that of `DOCKER_HOST`, within `policy`."""

    def __init__(self, policy: Policy | None = None, host: DockerHost | None = None) -> None:
        self._docker = Connection(host)
        self._policy = policy or Policy()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._docker.close()

    async def find(self, spec: ContainerSpec) -> bool:
        try:
            found = await self._docker.call(
                "looking for the container", lambda api: api.inspect_container(spec.name)
            )
        except NotFound:
            return False
        labels = found["Config"]["Labels"] or {}
        same = all(labels.get(key) == spec.labels[key] for key in (LABEL_JOB_ID, LABEL_SPEC))
        return same and shows_a_job(found)

    async def pull(self, request: PullRequest, options: PullOptions | None = None) -> Image:
        return await ensure_image(DockerImages(self._docker), request, options or PullOptions())

    async def secrets(self, spec: ContainerSpec) -> Mapping[str, str]:
        if not spec.secrets:
            return {}
        environment = (await self._inspected(spec))["Config"]["Env"] or []
        given = (each.partition("=") for each in environment)
        return {name: value for name, _, value in given if name in spec.secrets}

    async def create(self, spec: ContainerSpec, image: Image, secrets: Mapping[str, str]) -> None:
        if missing := spec.secrets.keys() - secrets.keys():
            raise EngineError(f"the values of {', '.join(sorted(missing))} are not at hand")
        version = self._docker.api_version
        arguments = create_arguments(spec, image, version, secrets)
        require_within(arguments, spec, self._policy)
        globs = self._policy.allowed_volumes
        if arguments["network_mode"] == TASK_NETWORK:
            await self._docker.call("preparing the network", self._prepare_network)
        made = await self._docker.call(
            "preparing volumes", lambda api: create_volumes(api, spec, version, globs)
        )
        try:
            with translated("creating the container"):
                await create_docker_container.fn(docker_host=self._docker.host, **arguments)
        except EngineError as error:
            # A task that was refused leaves nothing, its new caches included.
            await self._docker.call("removing volumes", lambda api: remove_caches(api, made))
            if "not a directory" in str(error):
                raise WorkdirMissing(
                    f"task.container.workdir: {spec.workdir} is not a folder in the image "
                    f"{spec.image}; correct it, or leave it out to start in the repository"
                ) from error
            raise

    def _prepare_network(self, api: docker.APIClient) -> None:
        interface = ensure_task_network(api)
        if is_local(self._docker.client):
            refuse_link_local(interface)

    async def missing_workdir(self, spec: ContainerSpec) -> bool:
        """Docker makes a missing working directory in the container's own layer when it creates it,
        at the end of whatever links lead there, so the layer's difference from the image tells."""
        changes = await self._docker.call(
            "looking at the working directory", lambda api: api.diff(spec.name), spec.name
        )
        added = (PurePosixPath(each["Path"]) for each in changes or [] if each["Kind"] == _ADDED)
        targets = [PurePosixPath(mount.target) for mount in spec.mounts]
        return any(
            path.name == PurePosixPath(spec.workdir).name
            and not any(target.is_relative_to(path) for target in targets)
            for path in added
        )

    @asynccontextmanager
    async def tail(
        self, spec: ContainerSpec, sink: Sink, *, replay: bool = False
    ) -> AsyncIterator[Tailed]:
        attachment = await self._docker.call(
            "attaching to the output",
            lambda _: Attachment(self._docker.client, spec.name, sink, replay=replay),
            spec.name,
        )
        attachment.start()
        try:
            yield attachment.tailed
            await in_thread(lambda: attachment.drain(_DRAIN_SECONDS))
        finally:
            attachment.hang_up()

    async def start(self, spec: ContainerSpec) -> None:
        try:
            with translated("starting the container", spec.name):
                await start_docker_container.fn(spec.name, docker_host=self._docker.host)
        except EngineRefused as error:
            # The engine files a command that cannot be run under the client's errors; the
            # container's state then carries the exit code and the reason.
            if (await self.inspect(spec)).exit_code not in (126, 127):
                raise EngineError(str(error)) from error

    async def wait(self, spec: ContainerSpec, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if await self._wait_slice(spec, min(left, _WAIT_SLICE_SECONDS)):
                return True
            if not (await self.inspect(spec)).running:
                return True
        return not (await self.inspect(spec)).running

    async def stop(self, spec: ContainerSpec) -> None:
        """Not through prefect-docker, as is the removal: both happen in hooks and sweeps too, where
        its tasks find no run to log to."""
        with suppress(NotFound):
            await self._docker.call(
                "stopping the container",
                lambda api: api.stop(spec.name, timeout=spec.stop_grace_seconds),
            )

    async def pause(self, spec: ContainerSpec) -> None:
        await set_paused(self._docker, spec.name, lambda: self.inspect(spec), True)

    async def unpause(self, spec: ContainerSpec) -> None:
        await set_paused(self._docker, spec.name, lambda: self.inspect(spec), False)

    @asynccontextmanager
    async def measured(self, spec: ContainerSpec) -> AsyncIterator[Measured]:
        sampler = Sampler(self._docker.client, spec.name)
        sampler.start()
        try:
            yield sampler.measured
        finally:
            sampler.stop()

    async def evidence(self, spec: ContainerSpec, since: datetime) -> Evidence:
        """Over a connection of its own: an engine that shuts down answers on those that are open
        for as long as it takes to stop its containers."""

        def read(_: docker.APIClient) -> Evidence:
            with closing(self._docker.connect()) as fresh:
                return read_evidence(fresh, spec.name, since)

        return await self._docker.call("reading the engine's events", read)

    async def inspect(self, spec: ContainerSpec) -> ContainerState:
        return state_of((await self._inspected(spec))["State"])

    async def destroy(self, spec: ContainerSpec) -> None:
        await self._docker.call(
            "removing the container",
            lambda api: remove_own(api, "container", spec.name, spec.job_id),
        )
        if any(needs_run_volume(mount, self._docker.api_version) for mount in spec.mounts):
            await self._docker.call(
                "removing the run's volume", lambda api: remove_run_volume(api, spec)
            )

    async def reclaim(self, reclaim: Reclaim) -> None:
        image_id = reclaim.image_id or await self.helper_image(HelperImage(reclaim.image))
        image = Image(image_id)
        await self._docker.call(
            f"giving the files of {reclaim.job_id} back",
            lambda _: run_reclaim(self._docker.client, reclaim, image, self._docker.api_version),
        )

    async def helper_image(self, wanted: HelperImage, noted: str = "") -> str:
        images = DockerImages(self._docker)
        if noted and await images.has(noted):
            return noted
        own = replace(wanted, platform=await self._platform())
        return (await ensure_image(images, own, PullOptions())).id

    async def _platform(self) -> str | None:
        """What the engine's host runs; None where a proxy keeps it from being told."""
        try:
            told = await self._docker.call("asking for its platform", lambda api: api.version())
        except EngineRefused:
            return None
        return f"{told['Os']}/{told['Arch']}"

    async def capacity(self) -> Resources:
        info: Mapping[str, Any] = await self._docker.call(
            "asking for the host's size", lambda api: api.info()
        )
        return Resources(float(info["NCPU"]), int(info["MemTotal"]))

    async def numbers_users_anew(self, image: Image) -> bool:
        def ask(api: docker.APIClient) -> bool:
            found = api.inspect_image(image.id)  # type: ignore[no-untyped-call]
            return numbers_users_anew(found, api.version())

        try:
            return await self._docker.call("asking whose its users are", ask)
        except EngineRefused:
            return True

    async def ping(self) -> Pong:
        return await self._docker.call("answering doctor", lambda _: ping(self._docker.client))

    async def owned(self) -> list[Owned]:
        return await self._docker.call("listing what is ours", lambda api: list(list_owned(api)))

    async def discard(self, owned: Owned) -> bool:
        return await self._docker.call(
            f"removing {owned.name}",
            lambda api: remove_own(api, owned.kind, owned.id, owned.job_id),
        )

    async def _inspected(self, spec: ContainerSpec) -> Mapping[str, Any]:
        return await self._docker.call(
            "inspecting the container", lambda api: api.inspect_container(spec.name), spec.name
        )

    async def _wait_slice(self, spec: ContainerSpec, seconds: float) -> bool:
        def wait(api: docker.APIClient) -> bool:
            try:
                # requests takes fractions of a second, whatever the stubs say.
                told = api.wait(spec.name, timeout=seconds)  # type: ignore[arg-type]
            except (requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError):
                # A slice that ended and a connection that broke look alike here; which it was,
                # the inspect that follows finds out.
                return False
            # The engine tells in an answer, too, that it could not wait.
            return not told.get("Error")

        return await self._docker.call("waiting for the container", wait, spec.name)
