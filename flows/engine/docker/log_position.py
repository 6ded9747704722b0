"""Length and checksum of what was delivered of one stream, in the bytes of the engine's log.

The log of a driver is not always byte for byte what the container wrote, and a rotated one no
longer begins where the container did; so what lies before a position is compared, too.
"""

import codecs
import re
import zlib

# The driver that keeps text: it writes U+FFFD for each byte that is no UTF-8.
TEXT_DRIVER = "json-file"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
REPLACEMENT = _REPLACEMENT.encode()
_BAD_BYTE = re.compile("[\udc80-\udcff]")
# The engine logs a line in pieces of this size, each encoded by itself.
_PIECE_BYTES = 16 * 1024
_PIECE = re.compile(rb"(?:[^\n]{0,%d}+\n)++|[^\n]{%d}" % (_PIECE_BYTES - 1, _PIECE_BYTES))
_FIRST_MARK_BYTES = 64


class UnlikeLogError(Exception):
    """The engine's log does not begin with what was delivered: it was rotated or changed."""


class Position:
    """The place in the log up to which one stream has been delivered."""

    def __init__(self, *, as_text: bool) -> None:
        self._as_text = as_text
        self._unfinished = b""
        self._length = 0
        self._checksum = 0
        # Checksums on the way, so that a log that begins elsewhere is noticed early.
        self._marks: list[tuple[int, int]] = []
        # Of what the text driver has not logged yet: how much it will be, how it ends, and what
        # the log shows while that end cannot be judged.
        self._owed = 0
        self._half = b""
        self._held = b""

    def add(self, chunk: bytes) -> None:
        """Note that `chunk`, as the container wrote it, has been delivered."""
        if not self._as_text:
            self._advance(chunk)
            return
        text, start = self._unfinished + chunk, 0
        while piece := _PIECE.match(text, start):
            self._advance(_logged(piece.group()))
            start = piece.end()
        self._unfinished = text[start:]

    def rewind(self) -> "Rewind":
        """Begin to read the log from its start; `add` is not used any more after that."""
        if self._unfinished:
            logged, self._half = _halved(self._unfinished)
            self._owed, self._unfinished = len(logged), b""
        return Rewind(self, [*self._marks, (self._length, self._checksum)])

    def pass_by(self, logged: bytes) -> bytes:
        """Move on by what the log has next; returns what of it was not delivered yet."""
        self._advance(logged)
        fresh = self._less_owed(logged)
        return self._less_half(fresh) if self._half and fresh else fresh

    @property
    def is_settled(self) -> bool:
        """Whether the log has shown everything that was delivered."""
        return not (self._owed or self._half)

    def _less_owed(self, logged: bytes) -> bytes:
        fresh = logged[self._owed :]
        self._owed -= len(logged) - len(fresh)
        return fresh

    def _less_half(self, logged: bytes) -> bytes:
        """Without the character of which a part was delivered: whole by now, or replaced."""
        self._held += logged
        if self._half[:1] == REPLACEMENT[:1] and len(self._held) < len(REPLACEMENT):
            return b""
        is_replaced = self._held[:1] != self._half[:1] or self._held.startswith(REPLACEMENT)
        self._owed = len(self._half) * (len(REPLACEMENT) if is_replaced else 1)
        held, self._held, self._half = self._held, b"", b""
        return self._less_owed(held)

    def _advance(self, logged: bytes) -> None:
        if not self._marks and len(logged) > (first := _FIRST_MARK_BYTES - self._length):
            self._count(logged[:first])
            logged = logged[first:]
        self._count(logged)

    def _count(self, logged: bytes) -> None:
        self._length += len(logged)
        self._checksum = zlib.crc32(logged, self._checksum)
        if self._length >= (2 * self._marks[-1][0] if self._marks else _FIRST_MARK_BYTES):
            self._marks.append((self._length, self._checksum))


class Rewind:
    """One reading of a stream's log from its beginning, letting through only what is new."""

    def __init__(self, position: Position, marks: list[tuple[int, int]]) -> None:
        self._position = position
        self._marks = marks[::-1]
        self._length = 0
        self._checksum = 0

    def fresh(self, logged: bytes) -> bytes:
        """What of the log's next bytes was not delivered yet. Raises `UnlikeLogError`."""
        while self._marks:
            length, checksum = self._marks[-1]
            known = logged[: length - self._length]
            self._length += len(known)
            self._checksum = zlib.crc32(known, self._checksum)
            if self._length < length:
                return b""
            if self._checksum != checksum:
                raise UnlikeLogError
            self._marks.pop()
            logged = logged[len(known) :]
        return self._position.pass_by(logged)

    @property
    def caught_up(self) -> bool:
        """Whether the log has shown everything that was delivered."""
        shown = not self._marks or self._marks[0][0] == 0
        return shown and self._position.is_settled


def _logged(written: bytes) -> bytes:
    """`written` as the text driver gives it back."""
    if written.isascii():
        return written
    # Not "replace", which puts one replacement for several bytes; the engine puts one for each.
    text = written.decode("utf-8", "surrogateescape")
    return _BAD_BYTE.sub(_REPLACEMENT, text).encode()


def _halved(written: bytes) -> tuple[bytes, bytes]:
    """`written` as it will be logged, without the half character at its end, and that half."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    decoder.decode(written)
    half, _ = decoder.getstate()
    return _logged(written[: len(written) - len(half)]), half
