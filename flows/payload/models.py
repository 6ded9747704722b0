"""The models of the queue payload, which accept what a queue carries: camelCase, `null` for absent,
`"yes"` for true. Unknown keys are kept but inside `task.container`; see `parse`. A clone URL is
taken apart into the address that git is given, and the credentials that it may carry.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from flows.payload import fields, git_fields
from flows.payload.base import PayloadModel
from flows.payload.container import Container
from flows.payload.repository import Remote


class Git(PayloadModel):
    """Which ref to check out, and which branch a publish would push."""

    starting_branch: Annotated[str, AfterValidator(git_fields.git_ref)] | None = Field(
        default=None, title="Branch, tag or commit",
        description="A branch, a tag or a commit. It is checked out; of a branch and a tag of the "
        "same name, the branch, and `refs/tags/…` names the tag. Default: the repository's default "
        "branch.",
    )  # fmt: skip
    new_branch: Annotated[str, AfterValidator(git_fields.git_ref)] | None = Field(
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
        default=None, title="Instructions", description="A text, shown in the run's report."
    )
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
            description="The name of a Repository Credentials block. It opens a private "
            "repository, and no container is given what it holds.",
        )
    )  # fmt: skip


class TaskPayload(PayloadModel):
    """One queue task: the only parameter of the deployment `container-task/docker`."""

    needs: ClassVar[frozenset[str]] = frozenset({"task"})

    repository: Annotated[str, AfterValidator(git_fields.repository)] | None = Field(
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

    @property
    def remote(self) -> Remote | None:
        """The repository's address, with the credentials that its URL carries."""
        return Remote.parse(self.repository) if self.repository else None

    @property
    def secret_blocks(self) -> Mapping[str, str]:
        """The name of a Secret block for each JSON path that names one."""
        secrets = self.task.container.secrets
        return {f"task.container.secrets.{key}": block for key, block in secrets.items()}

    @property
    def repository_credentials(self) -> str | None:
        """The name of the block that opens the repository."""
        return self.auth.repo_auth_ref if self.auth else None

    @property
    def names_secrets(self) -> bool:
        """Whether it has secrets that its text does not show."""
        return bool(self.secret_blocks or self.repository_credentials)

    def canonical(self) -> dict[str, Any]:
        """The payload as plain JSON values, defaults filled in: `parse(canonical())` equals it."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
