"""What only the engine can tell: whose container an id is, and whose data a volume shows."""

from collections import OrderedDict
from typing import Any

from flows.docker_proxy.bodies import (
    BindMount,
    Container,
    Helper,
    Host,
    Mount,
    RunVolume,
    VolumeMount,
)
from flows.docker_proxy.calls import Said
from flows.docker_proxy.engine import Engine
from flows.docker_proxy.names import Task, task_of
from flows.docker_proxy.queries import Create
from flows.docker_proxy.refused import Refused, shown
from flows.docker_proxy.settings import DOCKERS_CAPABILITIES, Settings
from flows.spec import JOB_ROOT, LABEL_CACHE, LABEL_JOB_ID, NAME_PREFIX, RUN_VOLUME_SUFFIX

_NOT_OURS = "is not a task's, and no other can be reached"
_REMEMBERED = 4096
_ID_LENGTH = 64
# Since Engine 26, a folder of a volume is mounted by itself, over no link.
_SUBPATH_API = (1, 45)


class Rights:
    """Answers with `Refused`, or not at all."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._ours: OrderedDict[str, None] = OrderedDict()

    async def require(self, said: Said) -> None:
        """Whatever of a request the engine has to be asked about."""
        if len(container := said.names.get("container", "")) == _ID_LENGTH:
            await self.require_task(container)
        if volume := said.names.get("removable"):
            await self.require_removable(volume)
        if isinstance(said.query, Create) and isinstance(said.body, Container):
            await self.require_container(said.query.name, said.body, said.version)
        if isinstance(said.body, RunVolume):
            await self.require_run_volume(said.body)

    async def require_task(self, container_id: str) -> None:
        """An id says nothing of whose it is; its name does. One that is gone is the engine's to
        tell of."""
        if container_id in self._ours:
            return
        found = (await self._engine.ask(f"/containers/{container_id}/json")).json()
        if found is None:
            return
        if not task_of(str(found["Name"]).lstrip("/")):
            raise Refused(f"refuses the container {container_id[:12]}: it {_NOT_OURS}")
        self._ours[container_id] = None
        if len(self._ours) > _REMEMBERED:
            self._ours.popitem(last=False)

    async def require_container(self, name: str, body: Container, version: str) -> None:
        """What it is to have must be its own job's, a cache, or what an operator allows."""
        task = _task(name, body.Labels)
        if isinstance(body, Helper) and not task.is_helper:
            raise Refused(f"refuses {shown(name)}: UsernsMode and LogConfig are the helper's alone")
        host, settings = body.HostConfig, self._settings
        network = host.NetworkMode or "default"
        if network not in settings.networks:
            raise Refused(
                f"refuses the network {shown(network)}: DOCKER_PROXY_NETWORKS does not name it"
            )
        if beyond := sorted(_capabilities(host) - settings.capabilities):
            raise Refused(
                f"refuses the capability {', '.join(beyond)}: it is not among those to drop "
                "(cap_drop of the policy), and DOCKER_PROXY_CAPABILITIES does not name it"
            )
        for mount in host.Mounts:
            if isinstance(mount, BindMount) or _shows_folder(mount, name):
                await self._require_folder(task, mount, version)
            elif isinstance(body, Helper):
                raise Refused(f"refuses {shown(name)}: its mount is the job's folder alone")
            else:
                await self._require_volume(mount)

    async def require_run_volume(self, body: RunVolume) -> None:
        """It leads into the workspace volume, to its own job's folder, and only where the engine
        knows no better way."""
        task = _task(body.Name.removesuffix(RUN_VOLUME_SUFFIX), body.Labels)
        version = (await self._engine.ask("/_ping")).headers.get(b"api-version", b"").decode()
        if _numbers(version) >= _SUBPATH_API:
            raise Refused("refuses a volume that leads to a folder: this engine mounts sub-paths")
        if not await self._is_own(task, body.DriverOpts.device):
            raise Refused(
                f"refuses a volume of {shown(body.DriverOpts.device)}: it is not the job's folder "
                "in the volume that DOCKER_PROXY_WORKSPACE_VOLUME names"
            )

    async def require_removable(self, volume: str) -> None:
        """Of volumes, the caches that the runner made may go, and what one run had."""
        found = await self._volume(volume)
        if found is not None and not _is_cache(found):
            raise Refused(f"refuses to remove the volume {shown(volume)}: it is no cache")

    async def _require_folder(self, task: Task, mount: Mount, version: str) -> None:
        if mount.Target != (own := f"{JOB_ROOT}/{task.job_id}"):
            raise Refused(f"refuses a job's folder at {shown(mount.Target)}: its place is {own}")
        if isinstance(mount, BindMount):
            self._require_bind(task, mount)
        elif mount.VolumeOptions:
            self._require_subpath(task, mount, mount.VolumeOptions.Subpath, version)
        else:
            await self._require_own_volume(task, mount)

    def _require_subpath(self, task: Task, mount: VolumeMount, folder: str, version: str) -> None:
        # In an older version, the engine would mount the whole volume.
        is_known = _numbers(version.removeprefix("/v")) >= _SUBPATH_API
        is_workspace = mount.Source == self._settings.workspace_volume
        if not (is_known and is_workspace and task.has(folder)):
            raise Refused(
                f"refuses a folder of the volume {shown(mount.Source)}: it is not the job's in the "
                "volume that DOCKER_PROXY_WORKSPACE_VOLUME names, asked for in API 1.45 or newer"
            )

    async def _require_volume(self, mount: VolumeMount) -> None:
        source, settings = mount.Source, self._settings
        if source not in settings.volumes and (
            source == settings.workspace_volume or not _is_cache(await self._volume(source))
        ):
            raise Refused(
                f"refuses the volume {shown(source)}: it is no cache of this runner, and "
                "DOCKER_PROXY_VOLUMES does not name it"
            )

    def _require_bind(self, task: Task, mount: BindMount) -> None:
        if not self._settings.bind_mounts:
            raise Refused(
                "refuses bind mounts; DOCKER_PROXY_BIND_MOUNTS=allow is for workers that are no "
                "containers"
            )
        if not task.has(mount.Source.rpartition("/")[2]):
            raise Refused(f"refuses a bind mount of {shown(mount.Source)}: it is no job's folder")

    async def _require_own_volume(self, task: Task, mount: VolumeMount) -> None:
        found = await self._volume(mount.Source) or {}
        options = found.get("Options") or {}
        device = str(options.get("device"))
        is_plain = options == {"type": "none", "o": "bind", "device": device}
        if not (is_plain and found["Driver"] == "local" and await self._is_own(task, device)):
            raise Refused(f"refuses the volume {shown(mount.Source)}: it is not the job's folder")

    async def _is_own(self, task: Task, device: str) -> bool:
        """Whether it is a folder of the job's, on the engine's host."""
        workspace = self._settings.workspace_volume
        found = await self._volume(workspace) if workspace else None
        root, _, folder = device.rpartition("/")
        return found is not None and root == found["Mountpoint"] and task.has(folder)

    async def _volume(self, name: str) -> dict[str, Any] | None:
        return (await self._engine.ask(f"/volumes/{name}")).json()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split("."))) if version else ()


def _is_cache(volume: dict[str, Any] | None) -> bool:
    if volume is None or volume["Name"].startswith(NAME_PREFIX):
        return False
    return (volume["Labels"] or {}).get(LABEL_CACHE) == "true"


def _shows_folder(mount: VolumeMount, name: str) -> bool:
    """Whether it claims to show a job's folder, by a sub-path or by the run's own volume."""
    return bool(mount.VolumeOptions) or mount.Source == f"{name}{RUN_VOLUME_SUFFIX}"


def _capabilities(host: Host) -> frozenset[str]:
    """What the container would have."""
    drops = {each.removeprefix("CAP_") for each in host.CapDrop}
    # With the prefix, Docker knows no ALL.
    kept = frozenset() if "ALL" in host.CapDrop else DOCKERS_CAPABILITIES - drops
    return kept | {each.removeprefix("CAP_") for each in host.CapAdd}


def _task(name: str, labels: dict[str, str]) -> Task:
    task = task_of(name)
    if task is None or labels.get(LABEL_JOB_ID) != task.job_id:
        raise Refused(f"refuses {shown(name)}: its label {LABEL_JOB_ID} is not the job's")
    return task
