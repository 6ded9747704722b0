"""The rules of a host: what any task may use, whatever its payload says."""

from typing import Self

from prefect.blocks.core import Block
from pydantic import Field

POLICY_NAME = "default"


class ContainerPolicy(Block):
    """What containers may do on the workers that share this block.

    Nothing needs registering: without a saved block named `default` these defaults hold. What no
    policy can allow, because the runner has no way to say it: privileged containers, host
    namespaces, devices, host paths other than the job's own folder.
    """

    _block_type_name = "Container Policy"
    _block_type_slug = "moonmind-container-policy"
    _description = "What task containers may do on the workers that share this block."

    pids_limit: int = Field(
        default=4096,
        ge=1,
        le=4_194_304,
        title="Process limit",
        description="Processes and threads that one container may have at a time.",
    )
    no_new_privileges: bool = Field(
        default=True,
        title="No new privileges",
        description="Keep sudo and other setuid programs in the container from gaining rights.",
    )
    stop_grace_seconds: int = Field(
        default=10,
        ge=0,
        le=3600,
        title="Stop grace (seconds)",
        description="Time between SIGTERM and SIGKILL when a container is stopped.",
    )
    allowed_volumes: list[str] = Field(
        default_factory=list,
        title="Allowed volumes",
        description=(
            "Existing volumes that tasks may mount as caches, as globs. Volumes that the runner "
            "made itself for a cache are always allowed; others hold somebody's data."
        ),
    )

    @classmethod
    async def in_force(cls) -> Self:
        """The saved block named `default`, or the built-in defaults where none is saved."""
        try:
            return await cls.aload(POLICY_NAME)
        except ValueError:
            return cls()
