"""The rules of a host: what any task may use, whatever its payload says."""

from pydantic import BaseModel, Field


class Policy(BaseModel):
    """What containers may do. The defaults hold where nobody has decided otherwise.

    What no policy can allow, because the runner has no way to say it: privileged containers, host
    namespaces, devices, host paths other than the job's own folder.
    """

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
