"""The operator's policy as a pydantic model: what any task on a host may use."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from flows.payload import amounts, fields
from flows.units import memory_bytes

Globs = list[str]


def _nothing(value: object) -> object:
    """A form's empty line is no value."""
    return None if value == "" else value


def _linux_capabilities(names: list[str]) -> list[str]:
    """As `capabilities(7)` names them, without the prefix."""
    plain = [name.strip().upper().removeprefix("CAP_") for name in names]
    for name in plain:
        if not re.fullmatch(r"[A-Z_]+", name, re.ASCII):
            raise ValueError(f"{name!r} is not a Linux capability, such as NET_RAW")
    return plain


def _added_capabilities(names: list[str]) -> list[str]:
    if "ALL" in names:
        raise ValueError("ALL would make every container privileged in all but name: name each")
    return names


_User = Annotated[str, AfterValidator(fields.user)]
_Memory = Annotated[str, BeforeValidator(amounts.memory)]
_Capabilities = Annotated[list[str], AfterValidator(_linux_capabilities)]


class Policy(BaseModel):
    """What containers may do. The defaults hold where nobody has decided otherwise.

    What no policy can allow, because the runner has no way to say it: privileged containers, host
    namespaces, devices other than GPUs, host paths other than the job's own folder, unconfined
    seccomp or AppArmor profiles.
    """

    allowed_images: Globs = Field(
        default_factory=lambda: ["*"], title="Allowed images",
        description="Images that tasks may run, as globs such as registry.example.org/team/* or "
        "python:3.*; a glob without a tag allows every tag, and one without a slash the images of "
        "Docker Hub that have none.",
    )  # fmt: skip
    require_digest: bool = Field(
        default=False, title="Require digests",
        description="Run only images that are named by digest (name@sha256:…).",
    )  # fmt: skip
    allowed_repositories: Globs = Field(
        default_factory=lambda: ["*"], title="Allowed repositories",
        description="Repositories that tasks may check out, as globs of host and path, such as "
        "github.com/team/*.",
    )  # fmt: skip
    allowed_secrets: Globs = Field(
        default_factory=lambda: ["task-*"], title="Allowed secrets",
        description="Names of Secret blocks whose values tasks may have, as globs.",
    )  # fmt: skip
    allowed_url_secrets: Globs = Field(
        default_factory=list, title="Allowed secrets that are URLs with a log-in",
        description="Names of those Secret blocks, as globs, whose value may be an http or https "
        "URL with a log-in, such as a package index. Others of that kind no container is given, as "
        "they may be what opens a repository.",
    )  # fmt: skip
    allowed_repository_credentials: Globs = Field(
        default_factory=lambda: ["task-*"], title="Allowed repository credentials",
        description="Names of Repository Credentials blocks that tasks may open their repository "
        "with, as globs. A policy that does not say has its allowed secrets here.",
    )  # fmt: skip
    allowed_registry_credentials: Globs = Field(
        default_factory=lambda: ["*"], title="Allowed registry credentials",
        description="Names of Docker Registry Credentials blocks that images are pulled with, as "
        "globs.",
    )  # fmt: skip
    allowed_volumes: Globs = Field(
        default_factory=list, title="Allowed volumes",
        description="Existing volumes with somebody's data that tasks may mount as caches, as "
        "globs. One of a Compose project must be named in full.",
    )  # fmt: skip
    allowed_caches: Globs = Field(
        default_factory=list, title="Shared caches",
        description="Caches that every task may mount, as globs. Others are for runs of the "
        "repository, or without one of the deployment, whose run made them.",
    )  # fmt: skip
    network: Annotated[str, AfterValidator(fields.network)] = Field(
        default="bridge", title="Network",
        description="The network of tasks that name none: none, bridge, or another by its name. On "
        "bridge, tasks do not reach each other.",
    )  # fmt: skip
    allowed_networks: Globs = Field(
        default_factory=lambda: ["bridge", "none"], title="Allowed networks",
        description="Networks that tasks may name, as globs.",
    )  # fmt: skip
    user: Annotated[_User | None, BeforeValidator(_nothing)] = Field(
        default=None, title="User",
        description="Who runs the command of tasks that name no user; empty: the image's own.",
    )  # fmt: skip
    allowed_users: Globs = Field(
        default_factory=lambda: ["*"], title="Allowed users",
        description="Users that tasks may run as, as globs such as 1000 or 1000:*. Unless * is "
        "among them, a task must name its user, or this policy must.",
    )  # fmt: skip
    max_timeout_seconds: int | None = Field(
        default=None, ge=1, title="Longest time limit (seconds)",
        description="A task that sets no time limit gets at most this one; empty: no ceiling.",
    )  # fmt: skip
    max_cpus: float | None = Field(
        default=None, ge=0.01, title="Most CPUs",
        description="A task that sets no limit gets this one; empty: no ceiling.",
    )  # fmt: skip
    max_memory: Annotated[_Memory | None, BeforeValidator(_nothing)] = Field(
        default=None, title="Most memory",
        description="An amount such as 16g. A task that sets no limit gets this one; empty: no "
        "ceiling.",
    )  # fmt: skip
    max_gpus: int | None = Field(
        default=0, ge=0, title="Most GPUs",
        description="GPUs that one task may ask for; empty: no ceiling.",
    )  # fmt: skip
    pids_limit: int = Field(
        default=4096, ge=1, le=4_194_304, title="Process limit",
        description="Processes and threads that one container may have at a time, at most.",
    )  # fmt: skip
    cap_add: Annotated[_Capabilities, AfterValidator(_added_capabilities)] = Field(
        default_factory=list, title="Added capabilities",
        description="Linux capabilities that every container gets beyond Docker's default set. "
        "With NET_ADMIN or NET_RAW, one task takes another's address on the network they share.",
    )  # fmt: skip
    cap_drop: _Capabilities = Field(
        default_factory=lambda: ["NET_RAW"], title="Dropped capabilities",
        description="Linux capabilities of Docker's default set that no container gets; ALL: none. "
        "Without NET_RAW among them, one task takes another's address on the network they share.",
    )  # fmt: skip
    no_new_privileges: bool = Field(
        default=True, title="No new privileges",
        description="Keep sudo and other setuid programs in the container from gaining rights.",
    )  # fmt: skip
    stop_grace_seconds: int = Field(
        default=10, ge=0, le=3600, title="Stop grace (seconds)",
        description="Time between SIGTERM and SIGKILL when a container is stopped.",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _one_rule_for_both(cls, data: Any) -> Any:
        """Once `allowed_secrets` bounded repositories' credentials as well; what an operator saved
        then bounds them still."""
        if not isinstance(data, dict) or "allowed_secrets" not in data:
            return data
        return {"allowed_repository_credentials": data["allowed_secrets"], **data}

    @property
    def max_memory_bytes(self) -> int | None:
        return memory_bytes(self.max_memory) if self.max_memory else None
