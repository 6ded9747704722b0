"""What is known of an upload that is not complete, on disk and outside every container's reach.

One file an attempt below `<MOONMIND_WORKDIR>/.runs`, a line of JSON a fact, only ever appended to:
a process that is killed leaves it as it is. As long as it is there, the upload is pending.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flows.errors import WorkspaceError
from flows.workspace.folder import RUNS_FOLDER

_SUFFIX = ".upload-"


@dataclass(slots=True)
class Progress:
    """What earlier tries came to; `sent` has size and sha256 of each key that is at `address`."""

    tries: int = 0
    last_try: datetime | None = None
    address: str = ""
    sent: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, fact: dict[str, object]) -> None:
        """Take one line of the journal into account."""
        match fact:
            case {"try": str(at), "address": str(address)}:
                if address != self.address:
                    self.sent = {}
                self.tries += 1
                self.last_try, self.address = datetime.fromisoformat(at), address
            case {"key": str(key), "sizeBytes": int(size), "sha256": str(sha256)}:
                self.sent[key] = (size, sha256)
            case _:
                # The last line of a host that went down.
                return


class UploadJournal:
    """The journal of one attempt's upload."""

    def __init__(self, root: Path, job_id: str, attempt: int) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self._file = root / RUNS_FOLDER / f"{job_id}{_SUFFIX}{attempt}"

    @property
    def is_pending(self) -> bool:
        """Whether the upload is wanted and not complete."""
        return self._file.exists()

    def open(self) -> None:
        """Note that there is something to upload. Raises `WorkspaceError`."""
        self._append(b"")

    def read(self) -> Progress:
        """What is known; nothing where there is no journal."""
        progress = Progress()
        with suppress(FileNotFoundError), self._file.open("rb") as file:
            for line in file:
                with suppress(ValueError):
                    fact = json.loads(line)
                    progress.add(fact if isinstance(fact, dict) else {})
        return progress

    def tries(self, now: datetime, address: str) -> None:
        """Note that a try begins, to upload to `address`. Raises `WorkspaceError`."""
        # On a line of its own, whatever the last one was cut to.
        self._append(b"\n" + _line({"try": now.isoformat(), "address": address}))

    def sent(self, key: str, size_bytes: int, sha256: str) -> None:
        """Note that a file is in the storage. Raises `WorkspaceError`."""
        # Not where it was closed meanwhile: a thread may come out of a storage very late.
        if self.is_pending:
            self._append(_line({"key": key, "sizeBytes": size_bytes, "sha256": sha256}))

    def close(self) -> None:
        """Nothing is left to upload."""
        self._file.unlink(missing_ok=True)

    def _append(self, data: bytes) -> None:
        try:
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(descriptor, "ab", buffering=0) as file:
                file.write(data)
        except OSError as error:
            raise WorkspaceError(f"cannot write {self._file}: {error.strerror}") from error


def pending_uploads(root: Path) -> list[tuple[str, int]]:
    """Job and attempt of every upload of this host that is not complete."""
    found = (path.name.split(_SUFFIX) for path in (root / RUNS_FOLDER).glob(f"*{_SUFFIX}*"))
    return sorted((job_id, int(attempt)) for job_id, attempt in found if attempt.isdecimal())


def _line(fact: dict[str, object]) -> bytes:
    return json.dumps(fact).encode() + b"\n"
