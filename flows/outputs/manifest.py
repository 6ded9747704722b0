"""JSON files that list what a task left, `outputs.json`, and `manifest.json` of an upload; and the
globs by which it is found. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from flows.masking import MASK, Masker
from flows.outputs.globs import Parts
from flows.results import MAX_ROWS, OutputResult, OutputRow, Reason
from flows.spec import Output
from flows.workspace.tree import Kind

# The rows are noted of a run, which is written anew several times; the manifest has it all.
_ROW_PATH_LENGTH = 300


class PublishedModel(BaseModel):
    """camelCase outside, snake_case inside, frozen, and nothing beyond the schema."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )


class CollectedFile(PublishedModel):
    """One file that is kept."""

    path: str = Field(description="below artifacts/")
    size_bytes: int = Field(ge=0)
    sha256: str


class RejectedFile(PublishedModel):
    """One thing that a pattern matched and that is not kept."""

    path: str = Field(description="where the task left it, below the job's folder")
    reason: Reason
    detail: str | None = Field(default=None, description="the system's own word on it")


class CollectedOutput(PublishedModel):
    """What became of one pattern."""

    path: str = Field(description="the pattern, as in task.container.outputs")
    required: bool
    type: Literal["file", "junit"]
    missing: bool = Field(description="whether nothing was collected")
    collected: list[CollectedFile]
    rejected: list[RejectedFile]
    rejected_left_out: int = Field(ge=0, description="found beyond the number that is listed")


class OutputsManifest(PublishedModel):
    """`outputs.json`: what a task was to leave, and what of it there is."""

    schema_version: Literal[1] = 1
    job_id: str
    attempt: int = Field(ge=1)
    outputs: list[CollectedOutput]


class StoredFile(PublishedModel):
    """One file that is in the storage."""

    path: str = Field(description="below artifacts/; bytes that are no UTF-8 are escaped")
    size_bytes: int = Field(ge=0)
    sha256: str
    key: str | None = Field(
        default=None, description="its name below the manifest's folder, where that is not `path`"
    )


class SkippedFile(PublishedModel):
    """One thing that is in `artifacts/` and not in the storage."""

    path: str
    kind: Kind | Literal["unreadable", "too-large"]


class UploadManifest(PublishedModel):
    """`manifest.json`. Where it is, everything that it lists is."""

    schema_version: Literal[1] = 1
    job_id: str
    attempt: int = Field(ge=1)
    created_at: datetime
    files: list[StoredFile]
    skipped: list[SkippedFile]
    left_out: int = Field(ge=0, description="found beyond the number that is uploaded")


def as_json(manifest: OutputsManifest | UploadManifest) -> bytes:
    """The text of the file."""
    return manifest.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode() + b"\n"


@dataclass(slots=True)
class OutputAccount:
    """What became of one output: each file by its place, and what is not kept."""

    output: Output
    collected: dict[Parts, CollectedFile] = field(default_factory=dict)
    rejected: list[RejectedFile] = field(default_factory=list)
    rejections: int = 0

    def listed(self, masker: Masker | None) -> CollectedOutput:
        """For the manifest, by path."""
        return CollectedOutput(
            path=pattern_of(self.output, masker),
            required=self.output.required,
            type=self.output.type,
            missing=not self.collected,
            collected=[
                file.model_copy(update={"path": masked_path(file.path, masker)})
                for _, file in sorted(self.collected.items())
            ],
            rejected=sorted(self.rejected, key=lambda each: each.path),
            rejected_left_out=self.rejections - len(self.rejected),
        )

    def result(self, masker: Masker | None) -> OutputResult:
        """In numbers."""
        return OutputResult(
            pattern_of(self.output, masker),
            self.output.required,
            self.output.type,
            collected=len(self.collected),
            size_bytes=sum(file.size_bytes for file in self.collected.values()),
            rejected=self.rejections,
        )


def rows_of(outputs: Sequence[CollectedOutput]) -> tuple[OutputRow, ...]:
    """What is missing first, then what was rejected, then as much as there is room for."""
    missing = (OutputRow(each.path, "missing") for each in outputs if each.missing)
    rejected = (
        OutputRow(each.path, "rejected", _cut(thing.path), thing.reason)
        for each in outputs
        for thing in each.rejected
    )
    collected = (
        OutputRow(each.path, "collected", _cut(file.path), None, file.size_bytes, file.sha256)
        for each in outputs
        for file in each.collected
    )
    return tuple(islice(chain(missing, rejected, collected), MAX_ROWS))


def masked_path(path: str, masker: Masker | None) -> str:
    return masker.text(path) if masker else MASK


def _cut(path: str) -> str:
    return path if len(path) <= _ROW_PATH_LENGTH else f"{path[: _ROW_PATH_LENGTH - 1]}…"


def pattern_of(output: Output, masker: Masker | None) -> str:
    """As people see it; without a masker as it is in the payload, which the run's page shows."""
    return masker.text(output.path) if masker else output.path
