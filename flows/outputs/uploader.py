"""Read the files of an attempt in some threads and put each into the store, the manifest last."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO

from flows.errors import StorageError, WorkspaceError
from flows.outputs.manifest import SkippedFile, StoredFile, UploadManifest, as_json
from flows.outputs.stores import PART_BYTES, HashingReader, Stopped, Store, explain
from flows.outputs.upload_journal import UploadJournal
from flows.outputs.upload_plan import (
    MANIFEST,
    Item,
    Plan,
    printable,
    progress,
    summary,
)
from flows.threads import begin, in_thread
from flows.workspace.logs import Logger
from flows.workspace.tree import Tree, open_file

# A file that the store refuses must not keep the others; a store that is away refuses all.
_FAILURES = 10
_SAY_SECONDS = 10.0
# For threads to come to the end of what they send.
_END_SECONDS = 2.0


@dataclass(slots=True)
class Sent:
    """How far it got; `already` files of those in the store were there before."""

    files: list[StoredFile] = field(default_factory=list)
    unreadable: list[SkippedFile] = field(default_factory=list)
    size_bytes: int = 0
    already: int = 0


class Uploader:
    """One try at uploading an attempt, which is noted in its journal."""

    def __init__(self, store: Store, tree: Tree, plan: Plan, journal: UploadJournal) -> None:
        known = journal.read()
        with suppress(WorkspaceError):
            journal.tries(datetime.now(UTC), store.address)
        self.address = f"{store.address}/{journal.job_id}/{journal.attempt}"
        self.sent = Sent()
        self._store = store
        self._tree = tree
        self._plan = plan
        self._journal = journal
        self._journal_error: str | None = None
        self._known = known.sent if known.address == store.address else {}
        self._items: Iterator[Item] = iter(plan.items)
        self._failures: list[tuple[str, Exception]] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    async def run(self, threads: int, logger: Logger) -> None:
        """Send the files in so many threads, then the manifest; say now and then how far it is.

        Raises `StorageError` for a file that could not be sent, and whatever the store raises for
        the manifest.
        """
        running = {begin(self.send_files) for _ in range(min(threads, len(self._plan.items)))}
        try:
            while running:
                _, running = await asyncio.wait(running, timeout=_SAY_SECONDS)
                if running:
                    logger.info(self._progress)
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
        """What it came to, in a line."""
        sent, plan = self.sent, self._plan
        skipped = len(plan.skipped) + len(sent.unreadable) + plan.left_out
        notes = [
            *([f"{sent.already:,} were there already"] if sent.already else []),
            *([f"{skipped:,} things were skipped, see manifest.json"] if skipped else []),
            *([self._journal_error] if self._journal_error else []),
        ]
        return "; ".join([summary(len(sent.files), sent.size_bytes, self.address), *notes])

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
        if len(self.sent.files) + len(self.sent.unreadable) != len(self._plan.items):
            raise StorageError("not every file was sent")
        manifest = UploadManifest(
            job_id=self._journal.job_id,
            attempt=self._journal.attempt,
            created_at=datetime.now(UTC),
            files=sorted(self.sent.files, key=lambda file: file.path),
            skipped=[*self._plan.skipped, *self.sent.unreadable],
            left_out=self._plan.left_out,
        )
        data = as_json(manifest)
        reader = HashingReader(BytesIO(data), len(data), self._stopped.is_set)
        self._store.put(self._key(MANIFEST), reader)

    @property
    def _progress(self) -> str:
        sent, plan = self.sent, self._plan
        return progress(len(sent.files), len(plan.items), sent.size_bytes, plan.size_bytes)

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
            with self._lock:
                self.sent.unreadable.append(
                    SkippedFile(path=printable(item.parts), kind="unreadable")
                )
            return
        with open(descriptor, "rb", buffering=0) as file:
            size = os.fstat(descriptor).st_size
            reader = HashingReader(file, size, self._stopped.is_set)
            already = self._is_stored(item, reader)
            if not already:
                file.seek(0)
                reader = HashingReader(file, size, self._stopped.is_set)
                self._store.put(self._key(item.key), reader)
                self._note(item, reader)
        with self._lock:
            self.sent.files.append(item.stored(reader.size_bytes, reader.sha256))
            self.sent.size_bytes += reader.size_bytes
            self.sent.already += already

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

    def _note(self, item: Item, reader: HashingReader) -> None:
        try:
            self._journal.sent(item.key, reader.size_bytes, reader.sha256)
        except WorkspaceError as error:
            # It is in the store; another try would send it again, and no more.
            self._journal_error = str(error)
