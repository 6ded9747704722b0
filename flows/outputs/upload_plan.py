"""What is uploaded of an attempt, under which names, and when; and the journal of it on disk.

An attempt's files lie below `<base>/<job_id>/<attempt>/`, each under its key: its path, with what
an object store or fsspec would take for more than a name replaced. `manifest.json` comes last.
The journal is one file an attempt below `<MOONMIND_WORKDIR>/.runs`, a line of JSON a fact, only
ever appended to: a process that is killed leaves it as it is, and with it the upload is pending.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from flows.errors import WorkspaceError
from flows.outputs.manifest import SkippedFile, StoredFile
from flows.workspace.folder import RUNS_FOLDER
from flows.workspace.tree import Found

MANIFEST = "manifest.json"
# Of a local file's name, and of a key in S3 less the base, the job's id and the attempt.
_NAME_BYTES = 255
_KEY_BYTES = 640
# Globs, escapes, chains and versions of fsspec, and what S3 advises against.
_SPECIAL = frozenset('\\{}^%`[]"<>~#|?*:\x7f')
_SUFFIX = ".upload-"


@dataclass(frozen=True, slots=True)
class Item:
    """A file to upload."""

    parts: tuple[str, ...]
    key: str
    size_bytes: int

    def stored(self, size_bytes: int, sha256: str) -> StoredFile:
        """What the manifest says of it."""
        path = printable(self.parts)
        key = self.key if self.key != path else None
        return StoredFile(path=path, size_bytes=size_bytes, sha256=sha256, key=key)


@dataclass(frozen=True, slots=True)
class Plan:
    """What of a tree is uploaded and what is not."""

    items: Sequence[Item]
    skipped: Sequence[SkippedFile]
    left_out: int

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.items)


def plan(found: Iterable[Found], max_bytes: int, max_entries: int = 100_000) -> Plan:
    """Regular files, as long as they fit into `max_bytes` together; the rest is skipped."""
    items: list[Item] = []
    skipped: list[SkippedFile] = []
    left_out = 0
    for each in found:
        if len(items) + len(skipped) >= max_entries:
            left_out += 1
        elif each.kind != "file":
            skipped.append(SkippedFile(path=printable(each.parts), kind=each.kind))
        elif each.size_bytes > max_bytes:
            skipped.append(SkippedFile(path=printable(each.parts), kind="too-large"))
        else:
            max_bytes -= each.size_bytes
            items.append(Item(each.parts, key_of(each.parts), each.size_bytes))
    return Plan(items, skipped, left_out)


def key_of(parts: Sequence[str]) -> str:
    """The name below the attempt's prefix; what is longer than stores allow gets a checksum."""
    names = [_escaped(name) for name in parts]
    if names[0] == MANIFEST:
        # The manifest's own place.
        names[0] = "manifest%2Ejson"
    key = "/".join(names)
    if len(key.encode()) <= _KEY_BYTES:
        return key
    return f"%long/{_sha256('/'.join(parts))}/{names[-1]}"


def _escaped(name: str) -> str:
    escaped = "".join(map(_escaped_char, name))
    if len(escaped.encode()) <= _NAME_BYTES:
        return escaped
    # A cut may go through an escape, so what remains of one goes as well.
    start = re.sub(r"%[0-9A-F]?$", "", escaped.encode()[:180].decode(errors="ignore"))
    return f"{start}%-{_sha256(name)[:32]}"


def _escaped_char(char: str) -> str:
    if char.isprintable() and char not in _SPECIAL:
        return char
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def printable(parts: Sequence[str]) -> str:
    """A path as people and JSON take it; bytes that are no UTF-8 are shown with escapes."""
    return "/".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def link(address: str) -> str:
    """`address` as Markdown and browsers take it."""
    return quote(address, safe="/:@%")


def file_address(address: str, path: str) -> str | None:
    """Where the file `path` of an upload is; None for one whose bytes `printable` escaped."""
    return None if "\\" in path else link(f"{address}/{key_of(path.split('/'))}")


def progress(files: int, all_files: int, size_bytes: int, all_bytes: int) -> str:
    """How far an upload got, in a line."""
    return f"Uploaded {files:,} of {all_files:,} files, {_mib(size_bytes)} of {_mib(all_bytes)} MiB"


def upload_line(files: int, size_bytes: int, address: str) -> str:
    """What an upload came to, in a line."""
    size = f"{size_bytes:,} bytes" if size_bytes < 10 * 1024**2 else f"{_mib(size_bytes)} MiB"
    return f"Uploaded {files:,} files, {size}, to {address}"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 1024**2:,.0f}"


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
