"""What differs by host, read from the environment: paths, capabilities, the default time limit."""

import socket
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from flows.errors import CapabilityMissing
from flows.payload import TaskPayload


def _words(value: object) -> object:
    if not isinstance(value, str):
        return value
    return value.lower().replace(",", " ").split()


class HostSettings(BaseSettings):
    """`MOONMIND_*` of this process; every value has a working default."""

    model_config = SettingsConfigDict(
        env_prefix="MOONMIND_", env_ignore_empty=True, frozen=True, populate_by_name=True
    )

    # Docker would take a relative path for the name of a volume.
    workdir: Annotated[Path, AfterValidator(Path.absolute)] = Path("/work/agent_jobs")
    workspace_volume: str = Field(default="", alias="MOONMIND_CONTAINER_WORKSPACE_VOLUME")
    capabilities: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = Field(
        default=("docker", "git"), alias="MOONMIND_WORKER_CAPABILITIES"
    )
    timeout_seconds: int = Field(default=3600, ge=1, alias="MOONMIND_CONTAINER_TIMEOUT_SECONDS")
    worker: str = Field(default_factory=socket.gethostname, alias="MOONMIND_WORKER_NAME")

    def require_capabilities(self, payload: TaskPayload) -> None:
        """Raise `CapabilityMissing` naming every capability this worker lacks for the task."""
        missing = [c for c in payload.required_capabilities if c not in self.capabilities]
        if missing:
            raise CapabilityMissing(
                f"this worker lacks the capability {', '.join(missing)} that the task requires "
                f"(it has {', '.join(self.capabilities)}): send the task to a worker that has it, "
                "or add it to MOONMIND_WORKER_CAPABILITIES"
            )
