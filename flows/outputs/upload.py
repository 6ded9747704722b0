"""Upload the files of an attempt with fsspec or a block of Prefect's, and keep what went wrong.

An upload that is not complete has a journal (`flows.outputs.upload_plan`), from before its first
byte until after its manifest: a sweep goes on with it. A failure never changes the outcome.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO

from blocks.storage import ArtifactStorage, StorageUnreadable
from flows.attempt import Attempt, Upload
from flows.errors import StorageError, WorkspaceError
from flows.outputs.manifest import SkippedFile, StoredFile, UploadManifest, as_json
from flows.outputs.stores import PART_BYTES, HashingReader, Stopped, Store, explain, open_store
from flows.outputs.upload_plan import (
    MANIFEST,
    Item,
    Plan,
    UploadJournal,
    plan,
    printable,
    progress,
    upload_line,
)
from flows.settings import HostSettings
from flows.threads import begin, in_thread
from flows.workspace.folder import Workspace
from flows.workspace.logs import Logger
from flows.workspace.safe_open import is_folder
from flows.workspace.tree import Tree, open_file, walk

# A file that the store refuses must not keep the others; a store that is away refuses all.
_FAILURES = 10
# For threads to come to the end of what they send.
_END_SECONDS = 2.0
# For a store to close its connections.
_CLOSE_SECONDS = 2.0


class FilesGone(StorageError):
    """What was to be uploaded is not on this host any more."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An upload to make. Without a `storage`, `unknown` says why it cannot be read."""

    workspace: Workspace
    journal: UploadJournal
    newest: int
    storage: ArtifactStorage | None = None
    unknown: str = ""


async def begin_delivery(attempt: Attempt, newest: int, logger: Logger) -> Delivery | None:
    """Open the journal of the attempt's upload; None where its files stay on their host."""
    spec, workspace = attempt.prepared.spec, attempt.prepared.workspace
    journal = UploadJournal(workspace.root, spec.job_id, spec.attempt)
    storage, unknown = None, ""
    try:
        storage = await ArtifactStorage.in_force()
    except StorageUnreadable as error:
        unknown = str(error)
    if storage is not None and not storage.is_remote:
        journal.close()
        return None
    try:
        journal.open()
    except WorkspaceError as error:
        logger.warning("If the upload fails, no sweep will repair it: %s", error)
    return Delivery(workspace, journal, newest, storage, unknown)


async def deliver(delivery: Delivery, logger: Logger, seconds: float) -> Upload:
    """Upload the files within `seconds`; raises nothing that a storage can cause."""
    storage, journal = delivery.storage, delivery.journal
    if storage is None:
        return Upload("", delivery.unknown)
    try:
        files = await asyncio.to_thread(
            files_of, delivery.workspace, journal.attempt, delivery.newest
        )
        return Upload(await upload(storage, journal, files, logger, seconds))
    except StorageError as error:
        logger.warning("The files are not uploaded: %s; the sweep tries again", error)
        return Upload(storage.url or storage.block or "", str(error))


def files_of(workspace: Workspace, number: int, newest: int) -> Tree:
    """The artifacts of an attempt; those before `newest` were set aside. Raises `FilesGone`."""
    if number == newest:
        if is_folder(workspace.artifacts):
            return Tree(workspace.folder, ("artifacts",))
    elif kept := workspace.earlier_results(number):
        return Tree(workspace.root, kept.relative_to(workspace.root).parts)
    for aside in workspace.root.glob(f"{workspace.job_id}.attempt-{number}-*"):
        return Tree(aside, ("artifacts",))
    raise FilesGone(f"they are not in {workspace.folder} any more")


async def upload(
    storage: ArtifactStorage, journal: UploadJournal, files: Tree, logger: Logger, seconds: float
) -> str:
    """Send what is missing of `files`, and the manifest; the address. Raises `StorageError`."""
    most = int(storage.max_upload_gib * 1024**3)
    async with _opened(storage, seconds) as store:
        found = await in_thread(lambda: plan(walk(files), most))
        uploader = Uploader(store, files, found, journal)
        await uploader.run(storage.parallel_uploads, logger)
        journal.close()
    logger.info(uploader.summary)
    return uploader.address


@asynccontextmanager
async def _opened(storage: ArtifactStorage, seconds: float) -> AsyncIterator[Store]:
    """Raise `StorageError` for all that goes wrong in the block, and where it takes too long."""
    store = await open_store(storage, HostSettings.from_environment().certificates)
    try:
        async with asyncio.timeout(seconds) as limit:
            yield store
    except StorageError:
        raise
    except Exception as error:
        if limit.expired():
            raise StorageError(
                f"the upload to {store.address} took longer than its limit of {seconds:.0f} s"
            ) from None
        said = explain(error, store.secrets)
        raise StorageError(f"the upload to {store.address} failed ({said})") from error
    finally:
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await in_thread(store.close)


class Uploader:
    """One try at uploading an attempt, which is noted in its journal."""

    def __init__(self, store: Store, tree: Tree, plan: Plan, journal: UploadJournal) -> None:
        known = journal.read()
        with suppress(WorkspaceError):
            journal.tries(datetime.now(UTC), store.address)
        self.address = f"{store.address}/{journal.job_id}/{journal.attempt}"
        self._store = store
        self._tree = tree
        self._plan = plan
        self._journal = journal
        self._journal_error: str | None = None
        self._known = known.sent if known.address == store.address else {}
        self._items: Iterator[Item] = iter(plan.items)
        self._stored: list[StoredFile] = []
        self._stored_bytes = 0
        # Of those in the store, how many were there before.
        self._already = 0
        self._unreadable: list[SkippedFile] = []
        self._failures: list[tuple[str, Exception]] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    async def run(self, threads: int, logger: Logger) -> None:
        """Send the files in threads, then the manifest. Raises `StorageError`, or as stores do."""
        running = {begin(self.send_files) for _ in range(min(threads, len(self._plan.items)))}
        try:
            while running:
                _, running = await asyncio.wait(running, timeout=10.0)
                if running:
                    logger.info(
                        progress(
                            len(self._stored),
                            len(self._plan.items),
                            self._stored_bytes,
                            self._plan.size_bytes,
                        )
                    )
            for key, error in self._failures:
                said = explain(error, self._store.secrets)
                raise StorageError(f"{key} could not be sent to {self._store.address} ({said})")
            await in_thread(self.send_manifest)
        finally:
            # Every thread ends with the part of a file that it is at.
            self._stopped.set()
            if running:
                await asyncio.wait(running, timeout=_END_SECONDS)

    @property
    def summary(self) -> str:
        skipped = len(self._plan.skipped) + len(self._unreadable) + self._plan.left_out
        notes = (
            upload_line(len(self._stored), self._stored_bytes, self.address),
            self._already and f"{self._already:,} were there already",
            skipped and f"{skipped:,} things were skipped, see manifest.json",
            self._journal_error,
        )
        return "; ".join(note for note in notes if note)

    def send_files(self) -> None:
        """Send one file after the other until none is left; for several threads at a time."""
        while (item := self._next()) is not None:
            try:
                self._send(item)
            except Stopped:
                return
            except Exception as error:  # noqa: BLE001 - of a file system comes almost anything
                with self._lock:
                    self._failures.append((item.key, error))

    def send_manifest(self) -> None:
        """Send `manifest.json`. Raises whatever the store raises."""
        if len(self._stored) + len(self._unreadable) != len(self._plan.items):
            raise StorageError("not every file was sent")
        manifest = UploadManifest(
            job_id=self._journal.job_id,
            attempt=self._journal.attempt,
            created_at=datetime.now(UTC),
            files=sorted(self._stored, key=lambda file: file.path),
            skipped=[*self._plan.skipped, *self._unreadable],
            left_out=self._plan.left_out,
        )
        data = as_json(manifest)
        reader = HashingReader(BytesIO(data), len(data), self._stopped.is_set)
        self._store.put(self._key(MANIFEST), reader)

    def _next(self) -> Item | None:
        with self._lock:
            if self._stopped.is_set() or len(self._failures) >= _FAILURES:
                return None
            return next(self._items, None)

    def _send(self, item: Item) -> None:
        try:
            descriptor = open_file(self._tree, item.parts)
        except OSError:
            # A worker that is not root may not read what the container kept to itself.
            skipped = SkippedFile(path=printable(item.parts), kind="unreadable")
            with self._lock:
                self._unreadable.append(skipped)
            return
        with open(descriptor, "rb", buffering=0) as file:
            size = os.fstat(descriptor).st_size
            reader = HashingReader(file, size, self._stopped.is_set)
            already = self._is_stored(item, reader)
            if not already:
                file.seek(0)
                reader = HashingReader(file, size, self._stopped.is_set)
                self._store.put(self._key(item.key), reader)
                try:
                    self._journal.sent(item.key, reader.size_bytes, reader.sha256)
                except WorkspaceError as error:
                    # It is in the store; another try would send it again, and no more.
                    self._journal_error = str(error)
        with self._lock:
            self._stored.append(item.stored(reader.size_bytes, reader.sha256))
            self._stored_bytes += reader.size_bytes
            self._already += already

    def _is_stored(self, item: Item, reader: HashingReader) -> bool:
        """Whether an earlier try has sent the file, as it is now, and the store still has it."""
        known = self._known.get(item.key)
        if known is None:
            return False
        while reader.read(PART_BYTES):
            pass
        same = known == (reader.size_bytes, reader.sha256)
        return same and self._store.has(self._key(item.key), reader.size_bytes)

    def _key(self, name: str) -> str:
        return f"{self._journal.job_id}/{self._journal.attempt}/{name}"
