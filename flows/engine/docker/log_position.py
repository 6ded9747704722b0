"""Deliver each byte of output once, by positions in the engine's log: a length and a checksum.

The log of a driver is not always byte for byte what the container wrote, and a rotated one no
longer begins where the container did; so what lies before a position is compared, too.
"""

import codecs
import re
import time
import zlib

from flows.engine.contract import Sink, Tailed

STREAMS = (1, 2)
# The driver that keeps text: it writes U+FFFD for each byte that is no UTF-8.
_TEXT_DRIVER = "json-file"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_REPLACED = _REPLACEMENT.encode()
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
        # Of what was delivered and not yet logged by the text driver: its length in the log, the
        # part of a character that it ends with, and what the log has for that one so far.
        self._still_to_skip = 0
        self._cut_character = b""
        self._undecided = b""

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
            logged, self._cut_character = _split_cut_character(self._unfinished)
            self._still_to_skip, self._unfinished = len(logged), b""
        return Rewind(self, [*self._marks, (self._length, self._checksum)])

    def pass_over(self, logged: bytes) -> bytes:
        """Move on by what the log has next; returns what of it was not delivered yet."""
        self._advance(logged)
        fresh = self._without_delivered(logged)
        return self._without_cut_character(fresh) if self._cut_character and fresh else fresh

    @property
    def is_settled(self) -> bool:
        """Whether the log has shown everything that was delivered."""
        return not (self._still_to_skip or self._cut_character)

    def _without_delivered(self, logged: bytes) -> bytes:
        fresh = logged[self._still_to_skip :]
        self._still_to_skip -= len(logged) - len(fresh)
        return fresh

    def _without_cut_character(self, logged: bytes) -> bytes:
        """Without the character of which a part was delivered: whole by now, or replaced."""
        self._undecided += logged
        part, found = self._cut_character, self._undecided
        if part[:1] == _REPLACED[:1] and len(found) < len(_REPLACED):
            return b""
        is_replaced = found[:1] != part[:1] or found.startswith(_REPLACED)
        self._still_to_skip = len(part) * (len(_REPLACED) if is_replaced else 1)
        self._undecided = self._cut_character = b""
        return self._without_delivered(found)

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
        return self._position.pass_over(logged)

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


def _split_cut_character(written: bytes) -> tuple[bytes, bytes]:
    """`written` as it will be logged, without the half character at its end, and that half."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    decoder.decode(written)
    half, _ = decoder.getstate()
    return _logged(written[: len(written) - len(half)]), half


class OutputDelivery:
    """What has been delivered of both streams, by an attached connection or from the log.

    `seen` counts bytes that came, new or not. All of a log that `strayed` from what was delivered
    is taken for new; what was `damaged` on its way is not complete.
    """

    def __init__(self, sink: Sink, driver: str) -> None:
        self.tailed = Tailed()
        self.seen = 0
        self.last_output = time.time()
        self.damaged = False
        self.strayed = False
        self._broken = False
        self._sink = sink
        self._as_text = driver == _TEXT_DRIVER
        self._positions = {stream: Position(as_text=self._as_text) for stream in STREAMS}

    def take_attached(self, stream: int, chunk: bytes) -> None:
        """Deliver what an attached connection gave, which is what the container wrote."""
        self.seen += len(chunk)
        self._positions[stream].add(chunk)
        self._deliver(chunk)

    def broke(self) -> None:
        """Note that the connection is over; the next output counts as a reconnect."""
        self._broken = True

    def stray(self) -> None:
        """Give up comparing the log with what was delivered."""
        self.strayed = self.damaged = True

    def rewinds(self) -> dict[int, Rewind]:
        """For a reading of the log from its beginning, by stream."""
        return {stream: position.rewind() for stream, position in self._positions.items()}

    def take_logged(self, rewind: Rewind, chunk: bytes) -> None:
        """Deliver what is new of the log's next bytes. Raises `UnlikeLogError`."""
        self.seen += len(chunk)
        fresh = chunk if self.strayed else rewind.fresh(chunk)
        if not fresh:
            return
        if self._broken:
            self._broken = False
            self.tailed.reconnects += 1
        if self._as_text and _REPLACED in fresh:
            # It may stand for a byte that only an attached connection would have given.
            self.damaged = True
        self._deliver(fresh)

    def _deliver(self, chunk: bytes) -> None:
        self.last_output = time.time()
        self._sink.write(chunk)
