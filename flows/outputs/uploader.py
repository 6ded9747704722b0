"""The threads that read an attempt's files and send them, and what they have to show for it."""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO

from flows.errors import StorageError, WorkspaceError
from flows.outputs.stores import PART_BYTES, Source, Stopped, Store, explain
from flows.outputs.upload_journal import Progress, UploadJournal
from flows.outputs.upload_plan import MANIFEST, Item, Manifest, Plan, SkippedFile, StoredFile
from flows.workspace.tree import Tree, open_file

# A file that the store refuses must not keep the others; a store that is away refuses all.
_FAILURES = 10


@dataclass(slots=True)
class Sent:
    """How far it got; `already` files of those in the store were there before."""

    files: list[StoredFile] = field(default_factory=list)
    unreadable: list[SkippedFile] = field(default_factory=list)
    size_bytes: int = 0
    already: int = 0


class Sending:
    """One try at uploading an attempt. `work` is for as many threads as are wanted."""

    def __init__(
        self,
        store: Store,
        tree: Tree,
        plan: Plan,
        journal: UploadJournal,
        known: Progress,
        folder: str,
    ) -> None:
        self.sent = Sent()
        self.journal_error: str | None = None
        self._store = store
        self._tree = tree
        self._plan = plan
        self._journal = journal
        self._known = known.sent if known.address == store.address else {}
        self._folder = folder
        self._items: Iterator[Item] = iter(plan.items)
        self._failures: list[tuple[str, Exception]] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Have every thread end with the part of a file that it is at."""
        self._stopped.set()

    def work(self) -> None:
        """Send one file after the other until none is left; raises nothing that one can cause."""
        while (item := self._next()) is not None:
            try:
                self._send(item)
            except Stopped:
                return
            except Exception as error:  # noqa: BLE001 - of a file system comes almost anything
                with self._lock:
                    self._failures.append((item.key, error))

    def raise_failure(self) -> None:
        """Raise `StorageError` with the first file that could not be sent, if there is one."""
        for key, error in self._failures:
            said = explain(error, self._store.secrets)
            raise StorageError(f"{key} could not be sent to {self._store.address} ({said})")

    def finish(self, job_id: str, attempt: int) -> None:
        """Send the manifest. Raises whatever the store raises."""
        if len(self.sent.files) + len(self.sent.unreadable) != len(self._plan.items):
            raise StorageError("not every file was sent")
        manifest = Manifest(
            job_id=job_id,
            attempt=attempt,
            created_at=datetime.now(UTC),
            files=sorted(self.sent.files, key=lambda file: file.path),
            skipped=[*self._plan.skipped, *self.sent.unreadable],
            left_out=self._plan.left_out,
        ).as_json()
        source = Source(BytesIO(manifest), len(manifest), self._stopped.is_set)
        self._store.put(f"{self._folder}/{MANIFEST}", source)

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
                self.sent.unreadable.append(item.skipped())
            return
        with open(descriptor, "rb", buffering=0) as file:
            size = os.fstat(descriptor).st_size
            there = self._there(item, Source(file, size, self._stopped.is_set))
            if there is None:
                file.seek(0)
                source = Source(file, size, self._stopped.is_set)
                self._store.put(f"{self._folder}/{item.key}", source)
                self._note(item, source)
        with self._lock:
            stored = there or item.stored(source.size_bytes, source.sha256)
            self.sent.files.append(stored)
            self.sent.size_bytes += stored.size_bytes
            self.sent.already += there is not None

    def _there(self, item: Item, source: Source) -> StoredFile | None:
        """The file, where an earlier try has sent it and the store still has it."""
        known = self._known.get(item.key)
        if known is None:
            return None
        while source.read(PART_BYTES):
            pass
        if known != (source.size_bytes, source.sha256):
            return None
        if not self._store.has(f"{self._folder}/{item.key}", source.size_bytes):
            return None
        return item.stored(*known)

    def _note(self, item: Item, source: Source) -> None:
        try:
            self._journal.sent(item.key, source.size_bytes, source.sha256)
        except WorkspaceError as error:
            # It is in the store; another try would send it again, and no more.
            self.journal_error = str(error)
