"""Hard-link the outputs of a task from the checkout into the artifacts, and write `outputs.json`.

For containers that have stopped. Done again, as after a crash, it comes to the same.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from flows.masking import Masker
from flows.outputs.globs import Globs, Parts
from flows.outputs.manifest import (
    CollectedFile,
    OutputAccount,
    OutputsManifest,
    RejectedFile,
    as_json,
    masked_path,
    rows_of,
)
from flows.outputs.upload_plan import printable
from flows.results import OutputResult, OutputRow, Reason
from flows.spec import ARTIFACT_DIR, ContainerSpec
from flows.workspace.folder import Workspace
from flows.workspace.listing import MAX_HASHED_BYTES
from flows.workspace.safe_open import link_or_copy, write_whole
from flows.workspace.tree import Bounds, Found, TooMuch, Tree, open_file, walk

_MAX_PATH_BYTES = 4_096
# What the slowest disk that anybody would work on reads and writes.
_DISK_BYTES_PER_SECOND = 50 * 1024**2


@dataclass(frozen=True, slots=True)
class CollectLimits:
    """Of all outputs of a run together.

    As many `size_bytes` as get a checksum. `path_bytes` are those of the manifest. The work ends
    by itself after `seconds` of looking, besides the time that the bytes take which are kept.
    """

    files: int = 10_000
    size_bytes: int = MAX_HASHED_BYTES
    path_bytes: int = 4 * 1024**2
    looks: int = 500_000
    seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class Collection:
    """What was collected. `reports` are the paths, below `artifacts/`, of the `junit` outputs'
    files; `error` is one sentence on what kept it from being complete."""

    outputs: tuple[OutputResult, ...] = ()
    rows: tuple[OutputRow, ...] = ()
    reports: tuple[Parts, ...] = ()
    error: str | None = None


def collect(
    workspace: Workspace,
    spec: ContainerSpec,
    masker: Masker | None,
    ready_ns: int | None = None,
    limits: CollectLimits | None = None,
) -> Collection:
    """Keep what the outputs of `spec` match, and write down what became of each.

    Without a `masker` nobody knows what is secret, and no file is named. What has been in the
    checkout since `ready_ns` or before, by the clock of its file system, is none of the task's;
    None where nobody knows.
    """
    if not spec.outputs:
        return Collection()
    work = _Collecting(workspace, ready_ns, masker, limits or CollectLimits())
    accounts, error = [OutputAccount(output) for output in spec.outputs], None
    # The checkout first: what is kept of it is no output of the task's own.
    for area in _areas(workspace, spec):
        try:
            for match in _walk_matches(area, work.bounds):
                work.account(match, [accounts[index] for index in match.outputs])
        except TooMuch as bound:
            error = error or (
                f"outputs were not sought in all of {area.shown}/, which {bound}: name their "
                "folders in task.container.outputs"
            )
        except OSError as problem:
            error = f"outputs could not be sought in {area.shown}/: {problem.strerror or problem}"
    outputs = [account.listed(masker) for account in accounts]
    manifest = OutputsManifest(job_id=spec.job_id, attempt=spec.attempt, outputs=outputs)
    path = workspace.run_json(spec.artifacts_subdir).with_name("outputs.json")
    try:
        write_whole(path, workspace.folder, as_json(manifest))
    except OSError as problem:
        # What is there is the task's.
        workspace.move_aside(spec.artifacts_subdir, path.name)
        error = error or f"cannot write {path}: {problem.strerror}"
    junit = [account.collected for account in accounts if account.output.type == "junit"]
    return Collection(
        tuple(account.result(masker) for account in accounts),
        rows_of(outputs),
        tuple(sorted({place for collected in junit for place in collected})),
        error,
    )


@dataclass(frozen=True, slots=True)
class _Area:
    """Where to look for which patterns, by the index of their outputs.

    What is at `parts` in `tree` belongs at `(*goes_to, *parts)` below `artifacts/`; what is `own`
    there is the runner's.
    """

    tree: Tree
    patterns: Mapping[int, str]
    goes_to: Parts
    own: frozenset[Parts] = frozenset()

    @property
    def is_checkout(self) -> bool:
        return self.tree.inner == ("repo",)

    @property
    def shown(self) -> str:
        return "/".join(self.tree.inner)


def _areas(workspace: Workspace, spec: ContainerSpec) -> tuple[_Area, _Area]:
    of_task, in_checkout = {}, {}
    for index, output in enumerate(spec.outputs):
        if output.path.startswith(ARTIFACT_DIR):
            of_task[index] = output.path.removeprefix(ARTIFACT_DIR)
        else:
            in_checkout[index] = output.path
    subdir = tuple(spec.artifacts_subdir.split("/"))
    own = (("logs", "runner.log"), ("metadata", "run.json"), ("metadata", "outputs.json"))
    return (
        _Area(Tree(workspace.folder, ("repo",)), in_checkout, (*subdir, "outputs")),
        _Area(
            Tree(workspace.folder, ("artifacts", *subdir)),
            of_task,
            subdir,
            frozenset((*subdir, *path) for path in own),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Match:
    """A thing that outputs match; `place` is its path below `artifacts/` once it is kept."""

    area: _Area
    thing: Found
    place: Parts
    outputs: Sequence[int]


def _walk_matches(area: _Area, bounds: Bounds) -> Iterator[_Match]:
    """Walk the folders that can hold a match. Raises what `walk` raises."""
    if not area.patterns:
        return
    globs, indices = Globs(list(area.patterns.values())), list(area.patterns)
    for thing in walk(area.tree, lambda folder: bool(globs.may_hold(folder)), bounds):
        ask = globs.may_hold if thing.kind == "folder" else globs.matching
        matching, place = ask(thing.parts), (*area.goes_to, *thing.parts)
        if matching and place not in area.own:
            yield _Match(area, thing, place, [indices[each] for each in matching])


class _Rejection(NamedTuple):
    """Why something that a pattern matches is not kept; `detail` is the system's own word."""

    reason: Reason
    detail: str | None = None


class _Collecting:
    """Keep what matches, a file of several outputs once, as far as the limits of all allow."""

    def __init__(
        self,
        workspace: Workspace,
        ready_ns: int | None,
        masker: Masker | None,
        limits: CollectLimits,
    ) -> None:
        self.bounds = Bounds(limits.looks, time.monotonic() + limits.seconds)
        self._workspace = workspace
        self._ready_ns = ready_ns
        self._masker = masker
        self._files_left = limits.files
        self._bytes_left = limits.size_bytes
        self._path_bytes_left = limits.path_bytes
        self._rejected_left = 1_000
        self._kept_of_checkout: set[Parts] = set()

    def account(self, match: _Match, accounts: Sequence[OutputAccount]) -> None:
        """Keep or reject one thing, for every output that matches it."""
        if not match.area.is_checkout and match.place in self._kept_of_checkout:
            return
        path_bytes = len("/".join(match.place).encode("utf-8", "surrogateescape"))
        kept: CollectedFile | _Rejection | None = None
        for account in accounts:
            if path_bytes > _MAX_PATH_BYTES:
                kept = _Rejection("too-long")
            elif self._files_left == 0 or path_bytes > self._path_bytes_left:
                kept = _Rejection("too-many")
            else:
                kept = kept or self._keep(match)
            if not isinstance(kept, _Rejection):
                self._files_left -= 1
                self._path_bytes_left -= path_bytes
                account.collected[match.place] = kept
                continue
            account.rejections += 1
            if self._rejected_left > 0:
                self._rejected_left -= 1
                path = printable((*match.area.tree.inner, *match.thing.parts))
                # Masked before it is cut, so that no half of a secret is left.
                shown = masked_path(path, self._masker)[:_MAX_PATH_BYTES]
                account.rejected.append(RejectedFile(path=shown, **kept._asdict()))

    def _keep(self, match: _Match) -> CollectedFile | _Rejection:
        thing, in_checkout = match.thing, match.area.is_checkout
        if reason := self._reason_against(match):
            return _Rejection(reason)
        self.bounds.until += thing.size_bytes / _DISK_BYTES_PER_SECOND
        try:
            descriptor = open_file(match.area.tree, thing.parts)
        except OSError as error:
            return _Rejection("unreadable", error.strerror)
        with open(descriptor, "rb") as file:
            try:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                if in_checkout:
                    place = self._workspace.artifacts.joinpath(*match.place)
                    link_or_copy(file, place, self._workspace.folder)
            except OSError as error:
                return _Rejection("not-kept", error.strerror)
        if in_checkout:
            self._kept_of_checkout.add(match.place)
        self._bytes_left -= thing.size_bytes
        return CollectedFile(path="/".join(match.place), size_bytes=thing.size_bytes, sha256=sha256)

    def _reason_against(self, match: _Match) -> Reason | None:
        """Why the thing is not kept, as far as its name and its inode tell."""
        thing = match.thing
        if thing.kind != "file":
            return "unreadable" if thing.kind == "folder" else thing.kind
        if any("\udc80" <= char <= "\udcff" for name in thing.parts for char in name):
            return "not-utf-8"
        is_old = self._ready_ns is not None and thing.changed_ns <= self._ready_ns
        if match.area.is_checkout and is_old:
            return "stale"
        return "too-large" if thing.size_bytes > self._bytes_left else None
