"""Collect what a task was to leave: from the checkout into the artifacts folder, with a manifest.

For containers that have stopped. Done again, it comes to the same: a process that takes over
after a crash finds what the earlier one kept. Everything that a pattern matched is accounted for.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from flows.masking import MASK, Masker
from flows.outputs.globs import Globs
from flows.outputs.manifest import (
    CollectedFile,
    CollectedOutput,
    OutputsManifest,
    RejectedFile,
    result_of,
    rows_of,
)
from flows.outputs.upload_plan import printable
from flows.results import OutputResult, OutputRow, Reason
from flows.spec import ARTIFACT_DIR, ContainerSpec, Output
from flows.workspace.folder import Workspace
from flows.workspace.listing import MAX_HASHED_BYTES
from flows.workspace.safe_open import link_or_copy, write_whole
from flows.workspace.tree import Bounds, Found, TooMuch, Tree, open_file, walk

# The parts of a path below a folder.
_Names = tuple[str, ...]

_MAX_PATH_BYTES = 4_096
_MAX_REJECTED_LISTED = 1_000
# What the slowest disk that anybody would work on reads and writes.
_DISK_BYTES_PER_SECOND = 50 * 1024**2
_REPO = "repo"
_KEPT_IN = "outputs"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of all outputs of a run together.

    As many `size_bytes` as get a checksum: an output without one is promised to nobody.
    `path_bytes` are those of the manifest. Nobody can end the work from outside, so it ends by
    itself: after `seconds` of looking, besides the time that the bytes take which are kept.
    """

    files: int = 10_000
    size_bytes: int = MAX_HASHED_BYTES
    path_bytes: int = 4 * 1024**2
    looks: int = 500_000
    seconds: float = 20.0


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
    masker: Masker | None,
    ready_ns: int | None = None,
    limits: Limits | None = None,
) -> Collection:
    """Keep what the outputs of `spec` match, and write down what became of each.

    Without a `masker` nobody knows what is secret, and no file is named. What has been in the
    checkout since `ready_ns` or before, by the clock of its file system, is none of the task's;
    None where nobody knows.
    """
    if not spec.outputs:
        return Collection()
    collector = _Collector(workspace, spec, masker, ready_ns, limits or Limits())
    collector.look()
    outputs = [collector.collected(index) for index in range(len(spec.outputs))]
    manifest = OutputsManifest(job_id=spec.job_id, attempt=spec.attempt, outputs=outputs)
    path = workspace.run_json(spec.artifacts_subdir).with_name("outputs.json")
    error = collector.error
    try:
        write_whole(path, workspace.folder, manifest.as_json())
    except OSError as problem:
        error = error or f"cannot write {path}: {problem.strerror}"
    results = tuple(result_of(each, collector.counts[i]) for i, each in enumerate(outputs))
    return Collection(results, rows_of(outputs), collector.reports(), error)


def pattern_of(output: Output, masker: Masker | None) -> str:
    """As it is told; without a masker as it is in the payload, which the run's page shows."""
    return masker.text(output.path) if masker else output.path


class _Rejection(Exception):
    """Why something that a pattern matches is not kept."""

    def __init__(self, reason: Reason, error: OSError | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = error.strerror if error else None


class _Collector:
    """The work on one job's folder; a file that several patterns match is kept once."""

    def __init__(
        self,
        workspace: Workspace,
        spec: ContainerSpec,
        masker: Masker | None,
        ready_ns: int | None,
        limits: Limits,
    ) -> None:
        self.counts: Counter[int] = Counter()
        self.error: str | None = None
        self._workspace = workspace
        self._spec = spec
        self._masker = masker
        self._ready_ns = ready_ns
        self._files_left = limits.files
        self._bytes_left = limits.size_bytes
        self._path_bytes_left = limits.path_bytes
        self._bounds = Bounds(limits.looks, time.monotonic() + limits.seconds)
        self._kept: dict[_Names, CollectedFile] = {}
        self._matched: dict[int, list[_Names]] = {}
        self._rejected: dict[int, list[RejectedFile]] = {}
        self._listed = 0

    def look(self) -> None:
        """Keep or reject everything that a pattern matches."""
        patterns = [(i, output.path) for i, output in enumerate(self._spec.outputs)]
        of_task = [(i, path) for i, path in patterns if path.startswith(ARTIFACT_DIR)]
        subdir = tuple(self._spec.artifacts_subdir.split("/"))
        in_repo = [each for each in patterns if each not in of_task]
        self._look_in(Tree(self._workspace.folder, (_REPO,)), in_repo, (*subdir, _KEPT_IN))
        # After those of the checkout, so that these are known and no output of the task's own.
        own = {(*subdir, "logs", "runner.log"), *self._kept}
        own |= {(*subdir, "metadata", name) for name in ("run.json", "outputs.json")}
        in_artifacts = [(i, path.removeprefix(ARTIFACT_DIR)) for i, path in of_task]
        tree = Tree(self._workspace.folder, ("artifacts", *subdir))
        self._look_in(tree, in_artifacts, subdir, frozenset(own))

    def collected(self, index: int) -> CollectedOutput:
        """What became of a pattern, by path."""
        output = self._spec.outputs[index]
        collected = [
            each.model_copy(update={"path": self._mask(each.path)})
            for each in map(self._kept.__getitem__, sorted(self._matched.get(index, ())))
        ]
        rejected = sorted(self._rejected.get(index, ()), key=lambda each: each.path)
        return CollectedOutput(
            path=pattern_of(output, self._masker),
            required=output.required,
            type=output.type,
            missing=not collected,
            collected=collected,
            rejected=rejected,
            rejected_left_out=self.counts[index] - len(rejected),
        )

    def _mask(self, path: str) -> str:
        return self._masker.text(path) if self._masker else MASK

    def reports(self) -> tuple[_Names, ...]:
        """The files of outputs of the type `junit`."""
        junit = [i for i, output in enumerate(self._spec.outputs) if output.type == "junit"]
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
            for thing in walk(tree, lambda folder: bool(globs.may_hold(folder)), self._bounds):
                place = (*goes_to, *thing.parts)
                matching = (globs.may_hold if thing.kind == "folder" else globs.matching)(
                    thing.parts
                )
                if matching and place not in own:
                    self._take(tree, thing, place, [patterns[each][0] for each in matching])
        except TooMuch as bounds:
            self.error = self.error or (
                f"outputs were not sought in all of {shown}/, which {bounds}: name their folders "
                "in task.container.outputs"
            )
        except OSError as problem:
            self.error = f"outputs could not be sought in {shown}/: {problem.strerror or problem}"

    def _take(self, tree: Tree, thing: Found, place: _Names, outputs: Sequence[int]) -> None:
        """Account for one thing with every output that matches it."""
        path_bytes = len("/".join(place).encode("utf-8", "surrogateescape"))
        for output in outputs:
            try:
                if path_bytes > _MAX_PATH_BYTES:
                    raise _Rejection("too-long")
                if self._files_left == 0 or path_bytes > self._path_bytes_left:
                    raise _Rejection("too-many")
                if place not in self._kept:
                    self._kept[place] = self._keep(tree, thing, place)
            except _Rejection as rejection:
                self._reject(output, (*tree.inner, *thing.parts), rejection)
                continue
            self._files_left -= 1
            self._path_bytes_left -= path_bytes
            self._matched.setdefault(output, []).append(place)

    def _reject(self, output: int, path: _Names, rejection: _Rejection) -> None:
        self.counts[output] += 1
        if self._listed < _MAX_REJECTED_LISTED:
            self._listed += 1
            # Masked before it is cut, so that no half of a secret is left.
            shown = self._mask(printable(path))[:_MAX_PATH_BYTES]
            listed = RejectedFile(path=shown, reason=rejection.reason, detail=rejection.detail)
            self._rejected.setdefault(output, []).append(listed)

    def _keep(self, tree: Tree, thing: Found, place: _Names) -> CollectedFile:
        if thing.kind != "file":
            raise _Rejection("unreadable" if thing.kind == "folder" else thing.kind)
        if not _is_utf8(thing.parts):
            raise _Rejection("not-utf-8")
        in_checkout = tree.inner == (_REPO,)
        if in_checkout and self._ready_ns is not None and thing.changed_ns <= self._ready_ns:
            raise _Rejection("stale")
        if thing.size_bytes > self._bytes_left:
            raise _Rejection("too-large")
        self._bounds.until += thing.size_bytes / _DISK_BYTES_PER_SECOND
        try:
            descriptor = open_file(tree, thing.parts)
        except OSError as error:
            raise _Rejection("unreadable", error) from None
        with open(descriptor, "rb") as file:
            try:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                if in_checkout:
                    path = self._workspace.artifacts.joinpath(*place)
                    link_or_copy(file, path, self._workspace.folder)
            except OSError as error:
                raise _Rejection("not-kept", error) from None
        self._bytes_left -= thing.size_bytes
        return CollectedFile(path="/".join(place), size_bytes=thing.size_bytes, sha256=sha256)


def _is_utf8(parts: _Names) -> bool:
    try:
        "/".join(parts).encode()
    except UnicodeEncodeError:
        return False
    return True
