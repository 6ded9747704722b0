"""Collect what a task was to leave: from the checkout into the artifacts folder, with a manifest.

For containers that are gone. Done again, it comes to the same: a process that takes over after a
crash finds what the earlier one kept. Everything that a pattern matched is accounted for.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from flows.files import MAX_HASHED_BYTES, write_whole
from flows.globs import Globs
from flows.keeping import keep
from flows.results import MAX_ROWS, OutputResult, OutputRow, Reason
from flows.rules import ARTIFACT_DIR
from flows.spec import ContainerSpec
from flows.tree import Found, Tree, open_file, walk
from flows.uploads import printable
from flows.workspace import Workspace

# The parts of a path below a folder.
_Names = tuple[str, ...]

# As many bytes as get a checksum: an output without one is promised to nobody.
MAX_OUTPUT_BYTES = MAX_HASHED_BYTES
MAX_OUTPUT_FILES = 10_000
# A second or so for a hundred thousand.
MAX_LOOKED_AT = 1_000_000
_MAX_REJECTED_LISTED = 1_000
_REPO = "repo"
_KEPT_IN = "outputs"


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )


class CollectedFile(_Model):
    """One file that is kept."""

    path: str = Field(description="below artifacts/")
    size_bytes: int = Field(ge=0)
    sha256: str


class RejectedFile(_Model):
    """One thing that a pattern matched and that is not kept."""

    path: str = Field(description="where the task left it, below the job's folder")
    reason: Reason
    detail: str | None = Field(default=None, description="the system's own word on it")


class CollectedOutput(_Model):
    """What became of one pattern."""

    path: str = Field(description="the pattern, as in task.container.outputs")
    required: bool
    type: Literal["file", "junit"]
    missing: bool = Field(description="whether nothing was collected")
    collected: list[CollectedFile]
    rejected: list[RejectedFile]
    rejected_left_out: int = Field(ge=0, description="found beyond the number that is listed")


class OutputsManifest(_Model):
    """`outputs.json`: what a task was to leave, and what of it there is."""

    schema_version: Literal[1] = 1
    job_id: str
    attempt: int = Field(ge=1)
    outputs: list[CollectedOutput]

    def as_json(self) -> bytes:
        """The text of the file."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Collection:
    """What was collected. `reports` has the names, below `artifacts/`, of the files of outputs of
    the type `junit`; `error` is one sentence on what kept it from being complete."""

    outputs: tuple[OutputResult, ...] = ()
    rows: tuple[OutputRow, ...] = ()
    reports: tuple[_Names, ...] = ()
    error: str | None = None


def collect(
    workspace: Workspace,
    spec: ContainerSpec,
    max_files: int = MAX_OUTPUT_FILES,
    max_bytes: int = MAX_OUTPUT_BYTES,
) -> Collection:
    """Keep what the outputs of `spec` match, and write down what became of each."""
    if not spec.outputs:
        return Collection()
    collector = _Collector(workspace, spec, max_files, max_bytes)
    collector.look()
    outputs = [collector.collected(index) for index in range(len(spec.outputs))]
    manifest = OutputsManifest(job_id=spec.job_id, attempt=spec.attempt, outputs=outputs)
    path = workspace.run_json(spec.artifacts_subdir).with_name("outputs.json")
    error = collector.error
    try:
        write_whole(path, workspace.folder, manifest.as_json())
    except OSError as problem:
        error = error or f"cannot write {path}: {problem.strerror}"
    results = tuple(_result(each, collector.counts[i]) for i, each in enumerate(outputs))
    return Collection(results, _rows(outputs), collector.reports(), error)


def _result(output: CollectedOutput, rejected: int) -> OutputResult:
    return OutputResult(
        output.path,
        output.required,
        output.type,
        collected=len(output.collected),
        size_bytes=sum(file.size_bytes for file in output.collected),
        rejected=rejected,
    )


def _rows(outputs: Sequence[CollectedOutput]) -> tuple[OutputRow, ...]:
    """What is missing first, then what was rejected, and as much as there is room for of what was
    collected."""
    missing = (OutputRow(each.path, "missing") for each in outputs if each.missing)
    rejected = (
        OutputRow(each.path, "rejected", thing.path, thing.reason)
        for each in outputs
        for thing in each.rejected
    )
    collected = (
        OutputRow(each.path, "collected", file.path, None, file.size_bytes, file.sha256)
        for each in outputs
        for file in each.collected
    )
    return tuple(islice(chain(missing, rejected, collected), MAX_ROWS))


class _Rejection(Exception):
    """Why something that a pattern matches is not kept."""

    def __init__(self, reason: Reason, error: OSError | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = error.strerror if error else None


@dataclass(slots=True)
class _Collector:
    """The work on one job's folder; a file that several patterns match is kept once."""

    workspace: Workspace
    spec: ContainerSpec
    files_left: int
    bytes_left: int
    counts: Counter[int] = field(default_factory=Counter)
    error: str | None = None
    _kept: dict[_Names, CollectedFile] = field(default_factory=dict)
    _matched: dict[int, list[_Names]] = field(default_factory=dict)
    _rejected: dict[int, list[RejectedFile]] = field(default_factory=dict)
    _listed: int = 0

    def look(self) -> None:
        """Keep or reject everything that a pattern matches."""
        patterns = [(i, output.path) for i, output in enumerate(self.spec.outputs)]
        of_task = [(i, path) for i, path in patterns if path.startswith(ARTIFACT_DIR)]
        subdir = tuple(self.spec.artifacts_subdir.split("/"))
        in_repo = [each for each in patterns if each not in of_task]
        self._look_in(Tree(self.workspace.folder, (_REPO,)), in_repo, (*subdir, _KEPT_IN))
        # After those of the checkout, so that these are known and no output of the task's own.
        own = {(*subdir, "logs", "runner.log"), *self._kept}
        own |= {(*subdir, "metadata", name) for name in ("run.json", "outputs.json")}
        in_artifacts = [(i, path.removeprefix(ARTIFACT_DIR)) for i, path in of_task]
        tree = Tree(self.workspace.folder, ("artifacts", *subdir))
        self._look_in(tree, in_artifacts, subdir, frozenset(own))

    def collected(self, index: int) -> CollectedOutput:
        """What became of a pattern, by path."""
        output = self.spec.outputs[index]
        collected = [self._kept[place] for place in sorted(self._matched.get(index, ()))]
        rejected = sorted(self._rejected.get(index, ()), key=lambda each: each.path)
        return CollectedOutput(
            path=output.path,
            required=output.required,
            type=output.type,
            missing=not collected,
            collected=collected,
            rejected=rejected,
            rejected_left_out=self.counts[index] - len(rejected),
        )

    def reports(self) -> tuple[_Names, ...]:
        """The files of outputs of the type `junit`."""
        junit = [i for i, output in enumerate(self.spec.outputs) if output.type == "junit"]
        return tuple(sorted({place for i in junit for place in self._matched.get(i, ())}))

    def _look_in(
        self,
        tree: Tree,
        patterns: Sequence[tuple[int, str]],
        goes_to: _Names,
        own: frozenset[_Names] = frozenset(),
    ) -> None:
        """What is found at `parts` in `tree` is, or is to be, at `(*goes_to, *parts)` below
        `artifacts/`; what is `own` there is the runner's."""
        if not patterns:
            return
        globs = Globs([pattern for _, pattern in patterns])
        shown = "/".join(tree.inner)
        try:
            found = walk(tree, lambda folder: bool(globs.may_hold(folder)))
            for thing in islice(found, MAX_LOOKED_AT):
                place = (*goes_to, *thing.parts)
                matching = (globs.may_hold if thing.kind == "folder" else globs.matching)(
                    thing.parts
                )
                if matching and place not in own:
                    self._take(tree, thing, place, [patterns[each][0] for each in matching])
            if next(found, None) is not None:
                self.error = (
                    f"outputs were sought among {MAX_LOOKED_AT:,} of the files in {shown}/, which "
                    "has more: name their folders in task.container.outputs"
                )
        except OSError as problem:
            self.error = f"outputs could not be sought in {shown}/: {problem.strerror or problem}"

    def _take(self, tree: Tree, thing: Found, place: _Names, outputs: Sequence[int]) -> None:
        """Account for one thing with every output that matches it."""
        for output in outputs:
            try:
                if self.files_left == 0:
                    raise _Rejection("too-many")
                if place not in self._kept:
                    self._kept[place] = self._keep(tree, thing, place)
            except _Rejection as rejection:
                self._reject(output, printable((*tree.inner, *thing.parts)), rejection)
                continue
            self.files_left -= 1
            self._matched.setdefault(output, []).append(place)

    def _reject(self, output: int, path: str, rejection: _Rejection) -> None:
        self.counts[output] += 1
        if self._listed < _MAX_REJECTED_LISTED:
            self._listed += 1
            listed = RejectedFile(path=path, reason=rejection.reason, detail=rejection.detail)
            self._rejected.setdefault(output, []).append(listed)

    def _keep(self, tree: Tree, thing: Found, place: _Names) -> CollectedFile:
        if thing.kind != "file":
            raise _Rejection("unreadable" if thing.kind == "folder" else thing.kind)
        if not _is_utf8(thing.parts):
            raise _Rejection("not-utf-8")
        if thing.size_bytes > self.bytes_left:
            raise _Rejection("too-large")
        try:
            descriptor = open_file(tree, thing.parts)
        except OSError as error:
            raise _Rejection("unreadable", error) from None
        with open(descriptor, "rb") as file:
            try:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                if tree.inner == (_REPO,):
                    keep(file, self.workspace.artifacts.joinpath(*place), self.workspace.folder)
            except OSError as error:
                raise _Rejection("not-kept", error) from None
        self.bytes_left -= thing.size_bytes
        return CollectedFile(path="/".join(place), size_bytes=thing.size_bytes, sha256=sha256)


def _is_utf8(parts: _Names) -> bool:
    try:
        "/".join(parts).encode()
    except UnicodeEncodeError:
        return False
    return True
