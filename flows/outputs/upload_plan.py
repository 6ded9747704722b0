"""What is uploaded of an attempt, under which names, and when: pure.

An attempt's files lie below `<base>/<job_id>/<attempt>/`, each under its key: its path, with what
an object store or fsspec would take for more than a name replaced. `manifest.json` comes last.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from flows.outputs.manifest import SkippedFile, StoredFile
from flows.workspace.tree import Found

MANIFEST = "manifest.json"
# Of a local file's name, and of a key in S3 less the base, the job's id and the attempt.
_NAME_BYTES = 255
_KEY_BYTES = 640
_MAX_ENTRIES = 100_000
# Globs, escapes, chains and versions of fsspec, and what S3 advises against.
_SPECIAL = frozenset('\\{}^%`[]"<>~#|?*:\x7f')


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


def plan(found: Iterable[Found], max_bytes: int, max_entries: int = _MAX_ENTRIES) -> Plan:
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
