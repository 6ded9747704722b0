"""The rules of a host: what any task may use, whatever its payload says."""

from typing import Self

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from pydantic import Field, ValidationError

POLICY_NAME = "default"


class PolicyUnreadable(Exception):
    """There is a policy, or may be, and it cannot be had; `str()` is one sentence for a person."""


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
        """The saved block named `default`, or the built-in defaults where none is saved.

        Raises `PolicyUnreadable` for everything else: a policy that cannot be read is not one
        that allows what the defaults allow.
        """
        try:
            return await cls.aload(POLICY_NAME)
        except Exception as error:
            if isinstance(error.__cause__, ObjectNotFound):
                return cls()
            slug = f"{cls.get_block_type_slug()}/{POLICY_NAME}"
            raise PolicyUnreadable(_sentence(slug, error.__cause__ or error)) from error


def _sentence(slug: str, error: BaseException) -> str:
    if not isinstance(error, ValidationError):
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return f"the block {slug} cannot be read ({said}): check that Prefect's API answers"
    faults = error.errors(include_url=False, include_context=False)
    said = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
    return f"the block {slug} is not valid ({said}): correct it, or delete it to have the defaults"
