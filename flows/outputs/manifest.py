"""JSON files that list what a task left, `outputs.json`, and `manifest.json` of an upload; and the
globs by which it is found. Pure.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import translate
from itertools import chain, islice
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from flows.masking import MASK, Masker
from flows.results import MAX_ROWS, OutputResult, OutputRow, Reason
from flows.spec import Output
from flows.workspace.tree import Kind

# The names of a path below a folder.
Parts = tuple[str, ...]
# The rows are noted of a run, which is written anew several times; the manifest has it all.
_ROW_PATH_LENGTH = 300
# Where in which pattern a path may have got to: positions between its segments.
_Places = frozenset[tuple[int, int]]


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


class Globs:
    """Several patterns, asked about one folder's names after another's.

    As in pathlib: `*`, `?` and `[a-z]` stay within a name and match those that begin with a dot,
    `**` stands for any number of folders, and a last `**` for all below. The time that a name takes
    does not grow with what a pattern could be made to try.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        # None is `**`; a name is matched by the standard library, which does not backtrack.
        self._patterns = [
            [None if part == "**" else re.compile(translate(part)) for part in pattern.split("/")]
            for pattern in patterns
        ]
        self._top = self._rested((index, 0) for index in range(len(patterns)))
        self._folder: tuple[str, ...] = ()
        self._places = self._top

    def matching(self, path: tuple[str, ...]) -> list[int]:
        """The indices of the patterns that match."""
        places = self._after(path)
        return sorted(index for index, place in places if place == len(self._patterns[index]))

    def may_hold(self, folder: tuple[str, ...]) -> list[int]:
        """The indices of the patterns that may match something in the folder."""
        places = self._after(folder)
        return sorted({index for index, place in places if place < len(self._patterns[index])})

    def _after(self, path: tuple[str, ...]) -> _Places:
        return self._with(self._of_folder(path[:-1]), path[-1]) if path else self._top

    def _of_folder(self, folder: tuple[str, ...]) -> _Places:
        """Remembered for the next name, which mostly is of the same folder."""
        if folder != self._folder:
            # A walk goes on in what it has just found, mostly.
            is_below = folder[:-1] == self._folder
            places = self._places if is_below else self._top
            for name in folder[-1:] if is_below else folder:
                places = self._with(places, name)
            self._folder, self._places = folder, places
        return self._places

    def _with(self, places: _Places, name: str) -> _Places:
        reached = []
        for index, place in places:
            if place < len(self._patterns[index]):
                part = self._patterns[index][place]
                if part is None:
                    reached.append((index, place))
                elif part.match(name):
                    reached.append((index, place + 1))
        return self._rested(reached)

    def _rested(self, places: Iterable[tuple[int, int]]) -> _Places:
        """With what is reached by letting a `**` stand for nothing."""
        reached = set()
        for index, place in places:
            reached.add((index, place))
            for part in self._patterns[index][place:]:
                if part is not None:
                    break
                place += 1
                reached.add((index, place))
        return frozenset(reached)
