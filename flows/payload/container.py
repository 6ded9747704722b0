"""The models of `task.container`: the image, the command and their surroundings.

Unknown keys are refused here, where a misspelt limit must not be ignored. The order of the fields
is that of the submit form and of docs/payload.md: what most tasks need comes first.
"""

from collections import Counter
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from flows.payload import amounts, fields, process
from flows.payload.base import PayloadModel

PullMode = Literal["if-missing", "always", "never"]
_Argument = Annotated[str, Field(strict=True), AfterValidator(process.argument)]
_Variable = Annotated[str, AfterValidator(process.env_name)]
_BlockName = Annotated[str, Field(strict=True), AfterValidator(fields.block_name)]
_WholeNumber = Annotated[int, Field(strict=True), BeforeValidator(amounts.whole_number)]
_ExitCode = Annotated[str, AfterValidator(fields.exit_code)]
# A choice between two kinds, the form's two buttons: a number input, and a list of one word.
_GPUS: dict[str, Any] = {
    "anyOf": [
        {"title": "Number", "type": "integer", "minimum": 1, "maximum": 1024},
        {"title": "All", "type": "string", "enum": ["all"]},
    ]
}


class ResourceLimits(PayloadModel):
    """Hard limits of the container."""

    # The schema's titles are what the form shows.
    model_config = ConfigDict(extra="forbid", title="Resources")

    cpus: Annotated[float, Field(strict=True), BeforeValidator(amounts.number)] | None = Field(
        default=None, ge=0.01, le=4096, allow_inf_nan=False, title="CPUs",
        description="A number of at least 0.01, such as 1.5. Docker refuses more than the host "
        "has. Default: no limit but the policy's.",
    )  # fmt: skip
    memory: Annotated[str, BeforeValidator(amounts.memory)] | None = Field(
        default=None, title="Memory", examples=["512m", "16g"],
        description="Bytes, or a number with a unit, such as `512m`, `1.5g` or `16Gi`; at least "
        "`6m`. Units are Docker's, powers of 1024: `g`, `GB`, `Gi` and `GiB` are the same. "
        "The container gets no swap beyond it. Default: no limit but the policy's.",
    )  # fmt: skip
    pids: _WholeNumber | None = Field(
        default=None, ge=1, le=4_194_304, title="Processes",
        description="A whole number of processes and threads, 1 or more. So many may there be at "
        "a time. Default: the policy's, 4096.",
    )  # fmt: skip
    shm: Annotated[str, BeforeValidator(amounts.shared_memory)] | None = Field(
        default=None, title="Shared memory", examples=["1g"],
        description="The size of `/dev/shm`: bytes, or a number with a unit, such as `1g`. "
        "Default: Docker's, `64m`.",
    )  # fmt: skip
    gpus: Annotated[
        int | Literal["all"], BeforeValidator(amounts.gpus), WithJsonSchema(_GPUS)
    ] | None = Field(
        default=None, title="GPUs",
        description="A number of GPUs, or `all`. The policy must grant them (`max_gpus`), and the "
        "engine needs its vendor's container toolkit.",
    )  # fmt: skip


class Retry(PayloadModel):
    """How many further attempts follow one that failed for a given cause."""

    model_config = ConfigDict(extra="forbid")

    infrastructure: _WholeNumber = Field(
        default=2, ge=0, le=10, title="After infrastructure failures",
        description="A whole number from 0 to 10. So many attempts follow where the engine, the "
        "disk or the workspace failed, not the task.",
    )  # fmt: skip
    image: _WholeNumber = Field(
        default=0, ge=0, le=10, title="After image errors",
        description="A whole number from 0 to 10. So many attempts follow where the image could "
        "not be had.",
    )  # fmt: skip
    exit_codes: Annotated[
        dict[_ExitCode, Annotated[_WholeNumber, Field(ge=0, le=10)]],
        BeforeValidator(fields.at_most(fields.MAX_EXIT_CODES)),
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
        "not exist, for runs of the same repository.",
    )  # fmt: skip
    target: Annotated[str, AfterValidator(fields.mount_target)] = Field(
        title="Mount point", examples=["/home/app/.nuget/packages"],
        description="An absolute path inside the container. It lies neither in "
        "`/work/agent_jobs`, `/proc`, `/sys` or `/dev` nor above them.",
    )  # fmt: skip


class OutputPattern(PayloadModel):
    """Files that the task is to leave."""

    model_config = ConfigDict(extra="forbid", title="Output")

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


def _distinct_targets(volumes: tuple[CacheVolume, ...]) -> tuple[CacheVolume, ...]:
    for target, count in Counter(volume.target for volume in volumes).items():
        if count > 1:
            raise ValueError(f"mounts more than one volume at {target}")
    return volumes


class Container(PayloadModel):
    """The image, the command and their surroundings."""

    model_config = ConfigDict(extra="forbid")
    needs: ClassVar[frozenset[str]] = frozenset({"enabled", "image", "command"})

    enabled: Annotated[bool, BeforeValidator(fields.flag)] = Field(
        default=False, title="Run in a container",
        description="True or false. Leave it on: this runner runs container tasks only.",
    )  # fmt: skip
    image: Annotated[str, AfterValidator(fields.image)] | None = Field(
        default=None, title="Image", examples=["python:3.12-slim"],
        description="An image name, `name[:tag][@sha256:digest]`, such as `python:3.12-slim`. "
        "It may begin with a registry.",
    )  # fmt: skip
    command: Annotated[tuple[_Argument, ...], AfterValidator(process.command)] | None = Field(
        default=None, title="Command", examples=[["python", "-m", "pytest"]],
        # As `min_length`, an array whose strings are all bad would be called empty as well.
        json_schema_extra={"minItems": 1},
        description='A non-empty array of strings, such as `["bash", "-lc", "make test"]`: the '
        "program, then each of its arguments. Nothing splits them, and no shell sees them: for a "
        "script, name the shell. They replace the image's command; the image's entrypoint stays.",
    )  # fmt: skip
    resources: ResourceLimits = Field(
        default_factory=ResourceLimits, title="Limits",
        description="Hard limits for processors, memory and the like.",
    )  # fmt: skip
    timeout_seconds: _WholeNumber | None = Field(
        default=None, ge=1, le=30 * 24 * 3600, title="Time limit (seconds)",
        description="A whole number of seconds from 1 to 2592000, which is 30 days. It counts "
        "from the container's start, so that a slow pull takes nothing from it. Default: the "
        "worker's, 3600.",
    )  # fmt: skip
    env: Annotated[
        dict[_Variable, _Argument],
        BeforeValidator(fields.at_most(fields.MAX_VARIABLES)),
        AfterValidator(process.variables),
    ] = Field(
        default_factory=dict, title="Environment", examples=[{"CI": "1"}],
        description='An object of string to string, such as `{"CI": "1"}`. Numbers and booleans '
        'are refused: write `"3"`. `JOB_ID`, `REPOSITORY` and `ARTIFACT_DIR` are reserved. The '
        "values are stored with the run, so secrets do not belong here.",
    )  # fmt: skip
    secrets: Annotated[
        dict[_Variable, _BlockName], BeforeValidator(fields.at_most(fields.MAX_SECRETS))
    ] = Field(
        default_factory=dict, title="Secrets", examples=[{"NUGET_TOKEN": "task-nuget"}],
        description="An object from environment variable to the name of a Secret block, such as "
        '`{"NUGET_TOKEN": "task-nuget"}`. The container finds the value in the variable, and '
        "nothing stores it.",
    )  # fmt: skip
    cache_volumes: Annotated[
        tuple[CacheVolume, ...],
        BeforeValidator(fields.at_most(fields.MAX_CACHE_VOLUMES)),
        AfterValidator(_distinct_targets),
    ] = Field(
        default=(), title="Cache volumes",
        description="An array of volumes, each with `name` and `target`. They outlive the run, "
        "as package caches do.",
    )  # fmt: skip
    outputs: Annotated[
        tuple[OutputPattern, ...], BeforeValidator(fields.at_most(fields.MAX_OUTPUTS))
    ] = Field(
        default=(), title="Outputs",
        examples=[[{"path": "build/**/*.zip", "required": True}]],
        json_schema_extra={"maxItems": fields.MAX_OUTPUTS},
        description="An array of outputs, each with `path`, `required` and `type`, at most 100. "
        "They are the files that the task is to leave.",
    )  # fmt: skip
    workdir: Annotated[str, AfterValidator(fields.absolute_path)] | None = Field(
        default=None, title="Working directory",
        examples=["/work/agent_jobs/<job_id>/repo/server"],
        description="An absolute path inside the container; `<job_id>` stands for the run's id. "
        "The folder must exist. Default: the checkout, `/work/agent_jobs/<job_id>/repo`.",
    )  # fmt: skip
    artifacts_subdir: Annotated[str, AfterValidator(fields.subdir)] = Field(
        default="container", title="Artifacts folder",
        description="One to eight plain path segments, such as `container` or `reports/unit`. "
        "It is the folder for this task's files below `artifacts/`.",
    )  # fmt: skip
    pull: PullMode = Field(
        default="if-missing", title="Pull",
        description="One of `if-missing`, `always` and `never`. It says when the image is pulled.",
    )  # fmt: skip
    platform: Annotated[str, AfterValidator(fields.platform)] | None = Field(
        default=None, title="Platform", examples=["linux/amd64", "linux/arm64/v8"],
        description="An `os/architecture[/variant]`, such as `linux/amd64` or `linux/arm64/v8`. "
        "An image of another platform that is on the host is pulled anew; with the pull `never` "
        "the run ends as image error `wrong-platform`. Default: the engine's choice.",
    )  # fmt: skip
    user: Annotated[str, Field(strict=True), AfterValidator(fields.user)] | None = Field(
        default=None, title="User", examples=["1000:1000"],
        description="A `user` or `user:group`, by name or number, such as `1000:1000`. "
        "Default: the policy's, or the image's.",
    )  # fmt: skip
    network: Annotated[str, AfterValidator(fields.network)] | None = Field(
        default=None, title="Network",
        description="`none`, `bridge`, or the name of a network that the policy allows. It is "
        "never the host's. On `bridge` tasks do not reach each other. Default: the policy's, "
        "`bridge`.",
    )  # fmt: skip
    entrypoint: tuple[_Argument, ...] | None = Field(
        default=None, title="Entrypoint", examples=[["/bin/sh", "-c"]],
        description="An array of strings in place of the image's entrypoint; `[]` for none. "
        "Default: the image's.",
    )  # fmt: skip
    stop_grace_seconds: _WholeNumber | None = Field(
        default=None, ge=0, le=3600, title="Stop grace (seconds)",
        description="A whole number of seconds from 0 to 3600, between SIGTERM and SIGKILL. They "
        "pass when the time limit or a cancellation stops the container. Default: the policy's, "
        "10.",
    )  # fmt: skip
    pull_timeout_seconds: _WholeNumber = Field(
        default=1800, ge=1, le=2 * 3600, title="Pull limit (seconds)",
        description="A whole number of seconds from 1 to 7200. So long may the pull of the image "
        "take, outside the time limit.",
    )  # fmt: skip
    retry: Retry = Field(
        default_factory=Retry, title="Retries",
        description="How many further attempts follow one that failed for a given cause.",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _null_variable_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        maps = {key: data[key] for key in ("env", "secrets") if isinstance(data.get(key), dict)}
        given = {
            key: {name: value for name, value in variables.items() if value is not None}
            for key, variables in maps.items()
        }
        return data | given

    @model_validator(mode="after")
    def _secrets_are_not_in_env(self) -> Self:
        if twice := sorted(self.secrets.keys() & self.env.keys()):
            raise ValueError(f"has {', '.join(twice)} in env and in secrets; leave one of them out")
        return self
