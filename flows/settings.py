"""`MOONMIND_*` environment variables as pydantic settings: what differs by host."""

import os
import socket
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from flows.certificates import bundle_with, require_certificates
from flows.errors import HostMisconfigured
from flows.payload import amounts
from flows.units import memory_bytes


def _split_words(value: object) -> object:
    return value.lower().replace(",", " ").split() if isinstance(value, str) else value


def _memory_bytes(value: object) -> object:
    return memory_bytes(amounts.memory(value)) if isinstance(value, str) else value


def _readable(path: Path) -> Path:
    if not path.is_file() or not os.access(path, os.R_OK):
        raise ValueError("cannot be read")
    return path


def _private(path: Path) -> Path:
    """As ssh wants a key to be; it would pass over another."""
    if _readable(path).stat().st_mode & 0o077:
        raise ValueError("others may read it")
    return path


class HostSettings(BaseSettings):
    """`MOONMIND_*` of this process; every value has a working default."""

    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True)

    # Docker would take a relative path for the name of a volume.
    workdir: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        default=Path("/work/agent_jobs"), alias="MOONMIND_WORKDIR",
        description="the path of a folder",
    )  # fmt: skip
    workspace_volume: str = Field(
        default="", alias="MOONMIND_CONTAINER_WORKSPACE_VOLUME", description="the name of a volume"
    )
    capabilities: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_words)] = Field(
        default=("docker", "git"), alias="MOONMIND_WORKER_CAPABILITIES",
        description="words separated by commas",
    )  # fmt: skip
    timeout_seconds: int = Field(
        default=3600, ge=1, alias="MOONMIND_CONTAINER_TIMEOUT_SECONDS",
        description="a whole number of seconds, 1 or more",
    )  # fmt: skip
    pull_inactivity_seconds: int = Field(
        default=120, ge=1, alias="MOONMIND_PULL_INACTIVITY_SECONDS",
        description="a whole number of seconds, 1 or more",
    )  # fmt: skip
    worker: str = Field(
        default_factory=socket.gethostname, alias="MOONMIND_WORKER_NAME", description="a name"
    )
    helper_image: str = Field(
        default="busybox:1.36", alias="MOONMIND_HELPER_IMAGE", description="the name of an image"
    )
    worker_cpus: float | None = Field(
        default=None, gt=0, alias="MOONMIND_WORKER_CPUS",
        description="a number of processors above 0, such as 3.5",
    )  # fmt: skip
    worker_memory: Annotated[int | None, BeforeValidator(_memory_bytes)] = Field(
        default=None, alias="MOONMIND_WORKER_MEMORY", description="an amount of memory, such as 16g"
    )
    ca_file: Annotated[Path, AfterValidator(require_certificates)] | None = Field(
        default=None, alias="MOONMIND_CA_FILE",
        description="the path of a file with certificates in PEM",
    )  # fmt: skip
    ssh_key_file: Annotated[Path, AfterValidator(_private)] | None = Field(
        default=None, alias="MOONMIND_SSH_KEY_FILE",
        description="the path of a private key that its owner, this worker's user, alone may read "
        "(chmod 600)",
    )  # fmt: skip
    ssh_known_hosts_file: Annotated[Path, AfterValidator(_readable)] | None = Field(
        default=None, alias="MOONMIND_SSH_KNOWN_HOSTS_FILE",
        description="the path of a file as ssh's known_hosts",
    )  # fmt: skip
    checkout_max_gib: float = Field(
        default=100.0, gt=0, allow_inf_nan=False, alias="MOONMIND_CHECKOUT_MAX_GIB",
        description="a number of GiB above 0",
    )  # fmt: skip
    patience_seconds: float = Field(
        default=300.0, ge=60, alias="MOONMIND_HOST_PATIENCE_SECONDS",
        description="a number of seconds, 60 or more",
    )  # fmt: skip

    @property
    def certificates(self) -> str | None:
        """The path of a bundle with the operator's certificate authorities, if they have any."""
        return bundle_with(self.ca_file) if self.ca_file else None

    @classmethod
    def from_environment(cls) -> Self:
        """Raises `HostMisconfigured` naming every variable with a wrong value and what it takes."""
        try:
            return cls()
        except ValidationError as error:
            faults = map(_fault_sentence, error.errors(include_url=False))
            raise HostMisconfigured("; ".join(faults)) from error


def _fault_sentence(fault: ErrorDetails) -> str:
    variable = fault["loc"][0]
    field = next(f for f in HostSettings.model_fields.values() if f.alias == variable)
    return f"{variable} is {fault['input']!r:.60} on this worker, but takes {field.description}"
