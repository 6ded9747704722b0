"""What a task's container and volumes may be created with, in Docker's own words. Pure.

Whatever stands here is a task's right; what does not is nobody's. The values that an operator may
widen, and what other objects they name, `rights` looks at.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from flows.docker_proxy.names import (
    CACHE,
    FOLDER,
    IMAGE,
    PATH,
    RUN_VOLUME,
    TARGET,
    VOLUME,
    matching,
)
from flows.docker_proxy.strict_json import NONE, ONE, Exact
from flows.spec import TASK_NETWORK

# Not a Literal, for which 0 and 1 would do as well.
No = Annotated[bool, AfterValidator(lambda value: _only(False, value))]
Yes = Annotated[bool, AfterValidator(lambda value: _only(True, value))]
Amount = Annotated[int, Field(ge=0, le=2**63 - 1)]
Path = Annotated[str, matching(PATH)]
# Other programs of a host act on labels of theirs; and what is one run's is no cache.
LabelMap = dict[Annotated[str, matching(r"moonmind\.(?!cache)[a-z0-9_.]{1,100}")], str]
Capability = Annotated[str, matching("(?:CAP_)?[A-Z_]{1,40}")]


class Subpath(Exact):
    Subpath: Annotated[str, matching(FOLDER)]


class VolumeMount(Exact):
    Type: Literal["volume"]
    Source: Annotated[str, matching(VOLUME)]
    Target: Annotated[str, matching(TARGET)]
    VolumeOptions: Subpath | None = None


class BindMount(Exact):
    Type: Literal["bind"]
    Source: Path
    Target: Annotated[str, matching(TARGET)]


Mount = Annotated[VolumeMount | BindMount, Field(discriminator="Type")]


class Gpus(Exact):
    """As docker-py fills it in."""

    Driver: Literal[""] = ""
    Count: Annotated[int, Field(ge=-1, le=1024)]
    DeviceIDs: Annotated[list[str], NONE] = Field(default_factory=list)
    Capabilities: Annotated[list[Annotated[list[Literal["gpu"]], ONE]], ONE]
    Options: Annotated[dict[str, str], NONE] = Field(default_factory=dict)


class Host(Exact):
    NetworkMode: str = ""
    Mounts: Annotated[list[Mount], Field(max_length=64)] = Field(default_factory=list)
    Init: bool = False
    Privileged: No = False
    ReadonlyRootfs: bool = False
    CapAdd: Sequence[Capability] = Field(default_factory=list)
    CapDrop: Sequence[Capability] = Field(default_factory=list)
    SecurityOpt: list[Literal["no-new-privileges"]] = Field(default_factory=list)
    PidsLimit: Amount = 0
    NanoCpus: Amount = 0
    Memory: Amount = 0
    MemorySwap: Amount = 0
    ShmSize: Amount = 0
    DeviceRequests: Annotated[list[Gpus], Field(max_length=8)] = Field(default_factory=list)


class JsonFile(Exact):
    """A log that can be read, whatever the engine's default is."""

    Type: Literal["json-file"]
    Config: dict[Literal["max-size"], Annotated[str, matching("[0-9]{1,9}[kmg]?")]]


class HelperHost(Host):
    """The helper gives the files of a job's folder back to the worker: as root of the host where
    the engine has a user namespace for containers. So it has that folder, and no other mount,
    network, device or right."""

    NetworkMode: Literal["none"]
    ReadonlyRootfs: Yes
    CapAdd: list[Literal["CHOWN", "DAC_OVERRIDE", "FOWNER"]] = Field(default_factory=list)
    CapDrop: Annotated[list[Literal["ALL"]], ONE]
    SecurityOpt: Annotated[list[Literal["no-new-privileges"]], ONE]
    Mounts: Annotated[list[Mount], ONE]
    DeviceRequests: Annotated[list[Gpus], NONE] = Field(default_factory=list)
    UsernsMode: Literal["host"] = "host"
    LogConfig: JsonFile | None = None


class Container(Exact):
    Image: Annotated[str, matching(f"sha256:[0-9a-f]{{64}}|{IMAGE}")]
    Cmd: list[str] = Field(default_factory=list)
    Entrypoint: list[str] = Field(default_factory=list)
    Env: list[str] = Field(default_factory=list)
    User: str = ""
    WorkingDir: str = ""
    Labels: LabelMap
    HostConfig: Host
    # What docker-py says of every container.
    AttachStdin: No = False
    AttachStdout: bool = False
    AttachStderr: bool = False
    OpenStdin: No = False
    StdinOnce: No = False
    Tty: No = False
    NetworkDisabled: No = False


class Helper(Container):
    HostConfig: HelperHost


def _of_a_cache(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) != 2 or labels["moonmind.cache"] != "true":
        raise ValueError("it is a cache, and somebody's")
    return labels


CacheLabels = Annotated[
    dict[
        Literal["moonmind.cache", "moonmind.cache_owner"],
        Annotated[str, Field(min_length=1, max_length=4096)],
    ],
    AfterValidator(_of_a_cache),
]


class CacheVolume(Exact):
    Name: Annotated[str, matching(CACHE)]
    Labels: CacheLabels


class NetworkOptions(Exact):
    """By the names that Docker's driver `bridge` has for them."""

    icc: Annotated[Literal["false"], Field(alias="com.docker.network.bridge.enable_icc")]
    interface: Annotated[
        str, matching("mm-[0-9a-z]{1,12}"), Field(alias="com.docker.network.bridge.name")
    ]


class TaskNetwork(Exact):
    """The one network that tasks share, on which they do not reach each other."""

    Name: Annotated[str, matching(TASK_NETWORK)]
    Driver: Literal["bridge"]
    Options: NetworkOptions
    Labels: Annotated[dict[Literal["moonmind.network"], Literal["tasks"]], ONE]
    CheckDuplicate: Yes
    # docker-py says so of every network.
    IPAM: None = None


class OneFolder(Exact):
    """Where the job's folder lies, for mount(8)."""

    type: Literal["none"]
    o: Literal["bind"]
    device: Path


class RunVolume(Exact):
    """Shows one job's folder of the workspace volume on engines without sub-paths."""

    Name: Annotated[str, matching(RUN_VOLUME)]
    Driver: Literal["local"]
    DriverOpts: OneFolder
    Labels: LabelMap


def _only(wanted: bool, value: bool) -> bool:
    if value is not wanted:
        raise ValueError(f"{wanted} alone")
    return value
