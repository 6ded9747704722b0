"""The models of what `task.container` is made of: limits, retries, volumes, outputs.

Unknown keys are refused here as well.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema

from flows.payload import fields
from flows.payload.base import PayloadModel

# A choice between two kinds, the form's two buttons: a number input, and a list of one word.
_GPUS: dict[str, Any] = {
    "anyOf": [
        {"title": "Number", "type": "integer", "minimum": 1, "maximum": 1024},
        {"title": "All", "type": "string", "enum": ["all"]},
    ]
}


class Resources(PayloadModel):
    """Hard limits of the container."""

    model_config = ConfigDict(extra="forbid")

    cpus: Annotated[float, Field(strict=True)] | None = Field(
        default=None, ge=0.01, le=4096, allow_inf_nan=False, title="CPUs",
        description="A number of at least 0.01, such as 1.5. Docker refuses more than the host "
        "has. Default: no limit but the policy's.",
    )  # fmt: skip
    memory: Annotated[str, BeforeValidator(fields.memory)] | None = Field(
        default=None, title="Memory", examples=["512m", "16g"],
        description="Bytes, or a number with a unit, such as `512m` or `16g`; at least `6m`. "
        "The container gets no swap beyond it. Default: no limit but the policy's.",
    )  # fmt: skip
    pids: Annotated[int, Field(strict=True)] | None = Field(
        default=None, ge=1, le=4_194_304, title="Processes",
        description="A whole number of processes and threads, 1 or more. So many may there be at "
        "a time. Default: the policy's, 4096.",
    )  # fmt: skip
    shm: Annotated[str, BeforeValidator(fields.shared_memory)] | None = Field(
        default=None, title="Shared memory", examples=["1g"],
        description="The size of `/dev/shm`: bytes, or a number with a unit, such as `1g`. "
        "Default: Docker's, `64m`.",
    )  # fmt: skip
    gpus: Annotated[
        int | Literal["all"], BeforeValidator(fields.gpus), WithJsonSchema(_GPUS)
    ] | None = Field(
        default=None, title="GPUs",
        description="A number of GPUs, or `all`. The policy must grant them (`max_gpus`), and the "
        "engine needs its vendor's container toolkit.",
    )  # fmt: skip


class Retry(PayloadModel):
    """How many further attempts follow one that failed for a given cause."""

    model_config = ConfigDict(extra="forbid")

    infrastructure: Annotated[int, Field(strict=True)] = Field(
        default=2, ge=0, le=10, title="After infrastructure failures",
        description="A whole number from 0 to 10. So many attempts follow where the engine, the "
        "disk or the workspace failed, not the task.",
    )  # fmt: skip
    image: Annotated[int, Field(strict=True)] = Field(
        default=0, ge=0, le=10, title="After image errors",
        description="A whole number from 0 to 10. So many attempts follow where the image could "
        "not be had.",
    )  # fmt: skip
    exit_codes: dict[
        Annotated[str, AfterValidator(fields.exit_code)],
        Annotated[int, Field(strict=True, ge=0, le=10)],
    ] = Field(
        default_factory=dict, title="After exit codes",
        description='An object from exit code to a number from 0 to 10, such as `{"75": 1}`. '
        "So many attempts follow where the command ended with that code.",
    )  # fmt: skip


class CacheVolume(PayloadModel):
    """A named volume that outlives the run, such as a package cache."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, AfterValidator(fields.volume_name)] = Field(
        title="Volume name", examples=["nuget_cache"],
        description="A named volume's name, never a host path. The runner makes one that does "
        "not exist.",
    )  # fmt: skip
    target: Annotated[str, AfterValidator(fields.mount_target)] = Field(
        title="Mount point", examples=["/home/app/.nuget/packages"],
        description="An absolute path inside the container. It lies neither in "
        "`/work/agent_jobs`, `/proc`, `/sys` or `/dev` nor above them.",
    )  # fmt: skip


class Output(PayloadModel):
    """Files that the task is to leave."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, Field(strict=True), AfterValidator(fields.output_path)] = Field(
        title="Files", examples=["build/**/*.zip", "$ARTIFACT_DIR/coverage/"],
        description="A path below the checkout, or below `$ARTIFACT_DIR/`, with `*`, `?`, `[a-z]` "
        "and `**`, such as `build/**/*.zip`. What matches in the checkout is put among "
        "the artifacts.",
    )  # fmt: skip
    required: Annotated[bool, BeforeValidator(fields.flag)] = Field(
        default=False, title="Required",
        description="True or false. A run that leaves no such file has failed.",
    )  # fmt: skip
    type: Literal["file", "junit"] = Field(
        default="file", title="Type",
        description="One of `file` and `junit`. The latter is for test reports in JUnit's XML, "
        "which are read and counted.",
    )  # fmt: skip
