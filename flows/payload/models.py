"""The queue payload: untrusted JSON in, frozen models and a canonical form out.

`parse` is the only door. It accepts what a queue carries (camelCase, `null` for absent, `"yes"`
for true), lists every fault at once, and never looks at the host. Unknown keys are refused inside
`task.container`, where a misspelt limit must not be ignored, and kept everywhere else.
"""

from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from flows.errors import Fault, PayloadError
from flows.payload import fields
from flows.payload.base import PayloadModel
from flows.payload.container import Container
from flows.payload.repository import Remote
from flows.payload.validation import accepted, faults_of, json_faults, keys_in

# The default of the flow's parameter, which Prefect reads as its schema: required, and in the form
# enabled already. A run without a payload gets pydantic's word for undefined.
PAYLOAD: Any = Field(
    json_schema_extra={"title": "Payload", "default": {"task": {"container": {"enabled": True}}}}
)
_NOT_ENABLED = (
    "is not true: this runner runs container tasks only; set it to true and give an image and a "
    "command, or send the task to another queue"
)


class Git(PayloadModel):
    """Which ref to check out, and which branch a publish would push."""

    starting_branch: Annotated[str, AfterValidator(fields.git_ref)] | None = Field(
        default=None, title="Branch, tag or commit",
        description="A branch, a tag or a commit. It is checked out. Default: the repository's "
        "default branch.",
    )  # fmt: skip
    new_branch: Annotated[str, AfterValidator(fields.git_ref)] | None = Field(
        default=None, title="Branch to push to",
        description="A branch name. It is carried and not acted on yet.",
    )  # fmt: skip


class Publish(PayloadModel):
    """What happens to changes in the checkout after the run."""

    mode: Literal["none", "branch", "pr"] = Field(
        default="none", title="Mode",
        description="One of `none`, `branch` and `pr`. Only `none` runs so far: a task with one "
        "of the others ends Rejected.",
    )  # fmt: skip


class Skill(PayloadModel):
    """Carried for agents; only its capabilities matter here."""

    required_capabilities: Annotated[tuple[str, ...], BeforeValidator(fields.capabilities)] = Field(
        default=(), title="Required capabilities",
        description="An array of words. They are added to those of the task.",
    )  # fmt: skip


class Task(PayloadModel):
    """What is to be done."""

    needs: ClassVar[frozenset[str]] = frozenset({"container"})

    container: Container = Field(
        default_factory=Container, title="Container",
        description="The image, the command and their surroundings.",
    )  # fmt: skip
    git: Git = Field(
        default_factory=Git, title="Git", description="What is checked out of the repository."
    )
    instructions: Annotated[str, AfterValidator(fields.text)] | None = Field(
        default=None, title="Instructions",
        description="A text, shown in the run's report.",
    )  # fmt: skip
    publish: Publish = Field(
        default_factory=Publish, title="Publish",
        description="What happens to changes in the checkout after the run.",
    )  # fmt: skip
    skill: Skill | None = Field(
        default=None, title="Skill",
        description="Carried for agents; only its capabilities matter here.",
    )  # fmt: skip


class Auth(PayloadModel):
    """What opens the repository; other references are carried."""

    repo_auth_ref: Annotated[str, Field(strict=True), AfterValidator(fields.block_name)] | None = (
        Field(
            default=None, title="Repository credentials", examples=["task-github"],
            description="The name of a Secret block, whose value is a URL such as "
            "`https://user:token@github.com`. It opens a private repository.",
        )
    )  # fmt: skip


class TaskPayload(PayloadModel):
    """One queue task: the only parameter of the deployment `container-task/docker`."""

    needs: ClassVar[frozenset[str]] = frozenset({"task"})

    repository: Annotated[str, AfterValidator(fields.repository)] | None = Field(
        default=None, repr=False, title="Repository", examples=["pallets/flask"],
        description="An https, http, ssh or git URL, `user@host:path`, or `owner/name` on GitHub. "
        "It is checked out before the command starts. Default: none, and an empty folder.",
    )  # fmt: skip
    task: Task = Field(
        default_factory=Task, title="Task", description="What is to be done, and how."
    )
    auth: Auth | None = Field(
        default=None, title="Credentials", description="What opens a private repository."
    )
    required_capabilities: Annotated[tuple[str, ...], BeforeValidator(fields.capabilities)] = Field(
        default=(), title="Required capabilities",
        description="An array of words. The worker refuses the task unless it has all of them. "
        "`docker` is added when the container is enabled, `git` when there is a repository, `gpu` "
        "when GPUs are asked for, `gh` for the publish mode `pr`, and so are the target runtime "
        "and the capabilities of the skill.",
    )  # fmt: skip
    target_runtime: Annotated[str, BeforeValidator(fields.keyword)] | None = Field(
        default=None, title="Target runtime",
        description="A word. It is carried, and counts as a required capability.",
    )  # fmt: skip

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


def runnable(raw: object) -> TaskPayload:
    """The payload, if this runner would run it.

    Raises `PayloadError` with every fault, among them what is valid and not done here.
    """
    try:
        payload = parse(raw)
    except PayloadError as error:
        raise PayloadError([*error.faults, *_not_enabled(raw, error)]) from None
    require_runnable(payload)
    return payload


def misplaced(payload: TaskPayload) -> list[str]:
    """A sentence for each key that has no effect where it stands, and would have elsewhere.

    Unknown keys are kept outside of `task.container`: other runners may know them.
    """
    places = {key: "task.container" for key in _aliases(Container)}
    for key, field in _aliases(Container).items():
        places |= {inner: f"task.container.{key}" for inner in keys_in(field) - places.keys()}
    outside = {"": payload.model_extra or {}, "task.": payload.task.model_extra or {}}
    found = [(where, key) for where, extra in outside.items() for key in extra if key in places]
    return [
        f"{where}{key} has no effect there; did you mean {places[key]}.{key}?"
        for where, key in found
    ]


def secrets_of(raw: object) -> tuple[str, ...]:
    """The values in a payload that no log may show; none where it is not acceptable."""
    try:
        repository = parse(raw).repository
    except PayloadError:
        return ()
    return Remote.parse(repository).secrets if repository else ()


def names_secrets(payload: TaskPayload) -> bool:
    """Whether values belong to it that only its run will read."""
    has_credentials = payload.auth is not None and payload.auth.repo_auth_ref is not None
    return bool(payload.task.container.secrets) or has_credentials


def require_runnable(payload: TaskPayload) -> None:
    """Raise `PayloadError` where a valid payload asks for what this runner does not do."""
    faults = []
    if not payload.task.container.enabled:
        faults.append(
            Fault(
                "task.container.enabled",
                f"{_NOT_ENABLED}{_misspelt_container(payload)}",
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


def _misspelt_container(payload: TaskPayload) -> str:
    outside = {"": payload.model_extra or {}, "task.": payload.task.model_extra or {}}
    for where, extra in outside.items():
        for key in get_close_matches("container", extra, n=1, cutoff=0.8):
            return f". {where}{key} has no effect; did you mean task.container?"
    return ""


def _not_enabled(raw: object, error: PayloadError) -> list[Fault]:
    """That a container with other faults is not enabled either, so that all is told at once."""
    container = _container(raw)
    told = any(fault.path == "task.container.enabled" for fault in error.faults)
    if container is None or told or fields.is_true(container.get("enabled")):
        return []
    return [Fault("task.container.enabled", _NOT_ENABLED)]


def _container(raw: object) -> dict[str, Any] | None:
    task = raw.get("task") if isinstance(raw, dict) else None
    container = task.get("container") if isinstance(task, dict) else None
    return container if isinstance(container, dict) else None


def _aliases(model: type[PayloadModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _missing(raw: object) -> list[Fault]:
    """What an enabled container lacks, found beside pydantic's faults so that all come at once."""
    container = _container(raw)
    if container is None or not fields.is_true(container.get("enabled")):
        return []
    return [
        Fault(f"task.container.{key}", f"is missing; it takes {accepted(field)}")
        for key, field in Container.model_fields.items()
        if key in {"image", "command"} and container.get(key) is None
    ]
