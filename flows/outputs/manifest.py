"""`outputs.json`, and what the verdict and the tables take from it. Pure."""

from collections.abc import Sequence
from itertools import chain, islice
from typing import Literal

from pydantic import Field

from flows.outputs.published_model import PublishedModel
from flows.results import MAX_ROWS, OutputResult, OutputRow, Reason

# The rows are noted of a run, which is written anew several times; the manifest has it all.
_ROW_PATH_LENGTH = 300


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

    def as_json(self) -> bytes:
        """The text of the file."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode() + b"\n"


def result_of(output: CollectedOutput, rejected: int) -> OutputResult:
    """The counts of one output."""
    return OutputResult(
        output.path,
        output.required,
        output.type,
        collected=len(output.collected),
        size_bytes=sum(file.size_bytes for file in output.collected),
        rejected=rejected,
    )


def rows_of(outputs: Sequence[CollectedOutput]) -> tuple[OutputRow, ...]:
    """What is missing first, then what was rejected, and as much as there is room for of what was
    collected."""
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


def _cut(path: str) -> str:
    return path if len(path) <= _ROW_PATH_LENGTH else f"{path[: _ROW_PATH_LENGTH - 1]}…"
