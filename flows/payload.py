"""The queue payload: untrusted JSON in, frozen models and a canonical form out.

`parse` is the only door. It accepts what a queue carries (camelCase, `null` for absent, `"yes"`
for true), lists every fault at once, and never looks at the host. Unknown keys are refused inside
`task.container`, where a misspelt limit must not be ignored, and kept everywhere else.
"""

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from flows import rules
from flows.errors import Fault, PayloadError
from flows.faults import faults_of, json_faults
from flows.repository import Remote

PullMode = Literal["if-missing", "always", "never"]


class _Model(BaseModel):
    """camelCase outside, snake_case inside, frozen, and `null` means absent."""

    model_config = ConfigDict(
        frozen=True, extra="allow", alias_generator=to_camel, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None}


class Resources(_Model):
    """Hard limits of the container."""

    model_config = ConfigDict(extra="forbid")

    cpus: Annotated[float, Field(strict=True)] | None = Field(
        default=None, ge=0.01, le=4096, allow_inf_nan=False, title="CPUs",
        description="a number of at least 0.01, such as 1.5",
    )  # fmt: skip
    memory: Annotated[str, BeforeValidator(rules.memory)] | None = Field(
        default=None, title="Memory", examples=["512m", "16g"],
        description="bytes, or a number with a unit, such as 512m or 16g; at least 6m",
    )  # fmt: skip
    pids: Annotated[int, Field(strict=True)] | None = Field(
        default=None, ge=1, le=4_194_304, title="Processes",
        description="a whole number of processes and threads, 1 or more",
    )  # fmt: skip
    shm: Annotated[str, BeforeValidator(rules.shared_memory)] | None = Field(
        default=None, title="Shared memory", examples=["1g"],
        description="the size of /dev/shm: bytes, or a number with a unit, such as 1g",
    )  # fmt: skip
    gpus: Annotated[int | Literal["all"], BeforeValidator(rules.gpus)] | None = Field(
        default=None, title="GPUs", description="a number of GPUs, or all"
    )


class Retry(_Model):
    """How often an attempt that failed for a given cause is followed by another."""

    model_config = ConfigDict(extra="forbid")

    infrastructure: Annotated[int, Field(strict=True)] = Field(
        default=2, ge=0, le=10, title="After infrastructure failures",
        description="a whole number from 0 to 10",
    )  # fmt: skip
    image: Annotated[int, Field(strict=True)] = Field(
        default=0, ge=0, le=10, title="After image errors",
        description="a whole number from 0 to 10",
    )  # fmt: skip
    exit_codes: dict[
        Annotated[str, AfterValidator(rules.exit_code)],
        Annotated[int, Field(strict=True, ge=0, le=10)],
    ] = Field(
        default_factory=dict, title="After exit codes",
        description='an object from exit code to a number from 0 to 10, such as {"75": 1}',
    )  # fmt: skip


class CacheVolume(_Model):
    """A named volume that outlives the run, such as a package cache."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, AfterValidator(rules.volume_name)] = Field(
        title="Volume name", description="a named volume's name, never a host path"
    )
    target: Annotated[str, AfterValidator(rules.mount_target)] = Field(
        title="Mount point", description="an absolute path inside the container"
    )


class Output(_Model):
    """Files that the task is to leave."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, Field(strict=True), AfterValidator(rules.output_path)] = Field(
        title="Files", examples=["build/**/*.zip", "$ARTIFACT_DIR/coverage/"],
        description="a path below the checkout, or below $ARTIFACT_DIR/, with *, ?, [a-z] and **, "
        "such as build/**/*.zip",
    )  # fmt: skip
    required: Annotated[bool, BeforeValidator(rules.flag)] = Field(
        default=False, title="Required",
        description="true or false: whether a run that leaves no such file has failed",
    )  # fmt: skip
    type: Literal["file", "junit"] = Field(
        default="file", title="Type", description="file, or junit for test reports in JUnit's XML"
    )


def _distinct_targets(volumes: tuple[CacheVolume, ...]) -> tuple[CacheVolume, ...]:
    for target, count in Counter(volume.target for volume in volumes).items():
        if count > 1:
            raise ValueError(f"mounts more than one volume at {target}")
    return volumes


class Container(_Model):
    """The image, the command and their surroundings."""

    model_config = ConfigDict(extra="forbid")

    enabled: Annotated[bool, BeforeValidator(rules.flag)] = Field(
        default=False, title="Run in a container", description="true or false"
    )
    image: Annotated[str, AfterValidator(rules.image)] | None = Field(
        default=None, title="Image", examples=["python:3.12-slim"],
        description="an image name, name[:tag][@sha256:digest]",
    )  # fmt: skip
    command: Annotated[
        tuple[Annotated[str, Field(strict=True), AfterValidator(rules.argument)], ...],
        AfterValidator(rules.command),
    ] | None = Field(
        default=None, title="Command", examples=[["python", "-m", "pytest"]],
        # As `min_length`, an array whose strings are all bad would be called empty as well.
        json_schema_extra={"minItems": 1},
        description='a non-empty array of strings, such as ["bash", "-lc", "make test"]',
    )  # fmt: skip
    entrypoint: tuple[
        Annotated[str, Field(strict=True), AfterValidator(rules.argument)], ...
    ] | None = Field(
        default=None, title="Entrypoint", examples=[["/bin/sh", "-c"]],
        description="an array of strings in place of the image's entrypoint; [] for none",
    )  # fmt: skip
    user: Annotated[str, Field(strict=True), AfterValidator(rules.user)] | None = Field(
        default=None, title="User", examples=["1000:1000"],
        description="user or user:group, by name or number, such as 1000:1000",
    )  # fmt: skip
    network: Annotated[str, AfterValidator(rules.network)] | None = Field(
        default=None, title="Network",
        description="none, bridge, or the name of a network that the policy allows",
    )  # fmt: skip
    workdir: Annotated[str, AfterValidator(rules.absolute_path)] | None = Field(
        default=None, title="Working directory",
        description="an absolute path inside the container; <job_id> stands for the run's id",
    )  # fmt: skip
    env: dict[
        Annotated[str, AfterValidator(rules.env_name)],
        Annotated[str, Field(strict=True), AfterValidator(rules.argument)],
    ] = Field(
        default_factory=dict, title="Environment",
        description="an object of string to string",
    )  # fmt: skip
    secrets: dict[
        Annotated[str, AfterValidator(rules.env_name)],
        Annotated[str, Field(strict=True), AfterValidator(rules.block_name)],
    ] = Field(
        default_factory=dict, title="Secrets", examples=[{"NUGET_TOKEN": "task-nuget"}],
        description="an object from environment variable to the name of a Secret block",
    )  # fmt: skip
    artifacts_subdir: Annotated[str, AfterValidator(rules.subdir)] = Field(
        default="container", title="Artifacts folder",
        description="one or more path segments, such as container or reports/unit",
    )  # fmt: skip
    timeout_seconds: Annotated[int, Field(strict=True)] | None = Field(
        default=None, ge=1, le=30 * 24 * 3600, title="Time limit (seconds)",
        description="a whole number of seconds from 1 to 2592000",
    )  # fmt: skip
    pull_timeout_seconds: Annotated[int, Field(strict=True)] = Field(
        default=1800, ge=1, le=2 * 3600, title="Pull limit (seconds)",
        description="a whole number of seconds from 1 to 7200",
    )  # fmt: skip
    stop_grace_seconds: Annotated[int, Field(strict=True)] | None = Field(
        default=None, ge=0, le=3600, title="Stop grace (seconds)",
        description="a whole number of seconds from 0 to 3600, between SIGTERM and SIGKILL",
    )  # fmt: skip
    retry: Retry = Field(
        default_factory=Retry, title="Retries",
        description="an object with infrastructure, image and exitCodes",
    )  # fmt: skip
    resources: Resources = Field(
        default_factory=Resources, title="Limits",
        description="an object with cpus, memory, pids, shm and gpus",
    )  # fmt: skip
    pull: PullMode = Field(
        default="if-missing", title="Pull", description="if-missing, always or never"
    )
    platform: Annotated[str, AfterValidator(rules.platform)] | None = Field(
        default=None, title="Platform", examples=["linux/amd64", "linux/arm64/v8"],
        description="os/architecture[/variant], such as linux/amd64 or linux/arm64/v8",
    )  # fmt: skip
    cache_volumes: Annotated[tuple[CacheVolume, ...], AfterValidator(_distinct_targets)] = Field(
        default=(), title="Cache volumes", description="an array of {name, target}"
    )
    outputs: Annotated[tuple[Output, ...], AfterValidator(rules.outputs)] = Field(
        default=(), title="Outputs",
        examples=[[{"path": "build/**/*.zip", "required": True}]],
        json_schema_extra={"maxItems": rules.MAX_OUTPUTS},
        description="an array of {path, required, type}, at most 100",
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


class Git(_Model):
    """Which ref to check out, and which branch a publish would push."""

    starting_branch: Annotated[str, AfterValidator(rules.git_ref)] | None = Field(
        default=None, title="Branch, tag or commit", description="a branch, a tag or a commit"
    )
    new_branch: Annotated[str, AfterValidator(rules.git_ref)] | None = Field(
        default=None, title="Branch to push to", description="a branch name"
    )


class Publish(_Model):
    """What happens to changes in the checkout after the run."""

    mode: Literal["none", "branch", "pr"] = Field(
        default="none", title="Publish", description="none, branch or pr"
    )


class Skill(_Model):
    """Carried for agents; only its capabilities matter here."""

    required_capabilities: Annotated[tuple[str, ...], BeforeValidator(rules.capabilities)] = Field(
        default=(), title="Required capabilities", description="an array of strings"
    )


class Task(_Model):
    """What is to be done."""

    container: Container = Field(
        default_factory=Container, title="Container", description="an object"
    )
    instructions: Annotated[str, AfterValidator(rules.text)] | None = Field(
        default=None, title="Instructions", description="a text, shown in the report"
    )
    git: Git = Field(default_factory=Git, title="Git", description="an object")
    publish: Publish = Field(default_factory=Publish, title="Publish", description="an object")
    skill: Skill | None = Field(default=None, title="Skill", description="an object")


class Auth(_Model):
    """What opens the repository; other references are carried."""

    repo_auth_ref: Annotated[str, Field(strict=True), AfterValidator(rules.block_name)] | None = (
        Field(
            default=None, title="Repository credentials",
            description="the name of a Secret block, whose value is a URL such as "
            "https://user:token@github.com",
        )
    )  # fmt: skip


class TaskPayload(_Model):
    """One queue task: the only parameter of the deployment `container-task/docker`."""

    task: Task = Field(default_factory=Task, title="Task", description="an object")
    repository: Annotated[str, AfterValidator(rules.repository)] | None = Field(
        default=None, repr=False, title="Repository",
        description="an https, http, ssh or git URL, or owner/name on GitHub",
    )  # fmt: skip
    required_capabilities: Annotated[tuple[str, ...], BeforeValidator(rules.capabilities)] = Field(
        default=(), title="Required capabilities", description="an array of strings"
    )
    auth: Auth | None = Field(default=None, title="Credentials", description="an object")
    target_runtime: Annotated[str, BeforeValidator(rules.keyword)] | None = Field(
        default=None, title="Target runtime", description="a string"
    )

    @model_validator(mode="after")
    def _derive_capabilities(self) -> Self:
        """Add what the task needs by its nature; normalising twice adds nothing."""
        derived = (
            *self.required_capabilities,
            *(["docker"] if self.task.container.enabled else []),
            *(["git"] if self.repository else []),
            *(["gpu"] if self.task.container.resources.gpus else []),
            *(["gh"] if self.task.publish.mode == "pr" else []),
            *([self.target_runtime] if self.target_runtime else []),
            *(self.task.skill.required_capabilities if self.task.skill else ()),
        )
        # The model is frozen for everybody else; here it is still being made.
        object.__setattr__(self, "required_capabilities", tuple(dict.fromkeys(derived)))
        return self

    def canonical(self) -> dict[str, Any]:
        """The payload as plain JSON values, defaults filled in: `parse(canonical())` equals it."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def parse(raw: object) -> TaskPayload:
    """Normalise a payload, or raise `PayloadError` with every fault.

    `raw` is whatever JSON (or a caller) gave: nothing but `PayloadError` is ever raised for it.
    """
    if isinstance(raw, TaskPayload):
        return raw
    if faults := json_faults(raw):
        raise PayloadError(faults)
    missing = _missing(raw)
    try:
        payload = TaskPayload.model_validate(raw)
    except ValidationError as error:
        raise PayloadError(faults_of(error, TaskPayload) + missing) from None
    if missing:
        raise PayloadError(missing)
    return payload


def secrets_of(raw: object) -> tuple[str, ...]:
    """The values in a payload that no log may show; none where it is not acceptable."""
    try:
        repository = parse(raw).repository
    except PayloadError:
        return ()
    return Remote.parse(repository).secrets if repository else ()


def require_runnable(payload: TaskPayload) -> None:
    """Raise `PayloadError` where a valid payload asks for what this runner does not do."""
    faults = []
    if not payload.task.container.enabled:
        faults.append(
            Fault(
                "task.container.enabled",
                "is not true: this runner runs container tasks only; set it to true and give "
                "an image and a command, or send the task to another queue",
            )
        )
    if (mode := payload.task.publish.mode) != "none":
        faults.append(
            Fault(
                "task.publish.mode",
                f"is {mode!r}, which this runner cannot do yet: use 'none' and take the files "
                "from the run's artifacts",
            )
        )
    if faults:
        raise PayloadError(faults)


def _missing(raw: object) -> list[Fault]:
    """What an enabled container lacks, found beside pydantic's faults so that all come at once."""
    task = raw.get("task") if isinstance(raw, dict) else None
    container = task.get("container") if isinstance(task, dict) else None
    if not isinstance(container, dict) or not rules.is_true(container.get("enabled")):
        return []
    return [
        Fault(f"task.container.{key}", f"is missing; it takes {field.description}")
        for key, field in Container.model_fields.items()
        if key in {"image", "command"} and container.get(key) is None
    ]
