"""HTTP/1.1 as it comes through a proxy: whole requests, and the parts of an answer."""

import re
from collections.abc import Iterator
from socket import socket
from typing import NamedTuple

PIECE = 64 * 1024
# A body that is longer goes on as it comes.
_LONG = 1024 * 1024
_TO_THE_END = 2**62


class Said(NamedTuple):
    """What a proxy answers in the server's place."""

    status: int
    text: str
    media_type: str = "text/plain"

    def written(self) -> bytes:
        """As it is sent."""
        body = self.text.encode()
        lines = (
            f"HTTP/1.1 {self.status} Said",
            f"Content-Type: {self.media_type}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        return "\r\n".join((*lines, "", "")).encode() + body


def requests(source: socket) -> Iterator[bytes]:
    """What comes from a client: each request as a whole with its body.

    A long body, one in chunks, and all that follows an upgrade or one in chunks, come in pieces.
    """
    kept, passing = b"", 0
    while data := source.recv(PIECE):
        kept += data
        while kept:
            size, follows = (min(passing, len(kept)), 0) if passing else _first(kept)
            if not size or size > len(kept):
                break
            passing = max(0, passing - size) + follows
            yield kept[:size]
            kept = kept[size:]
    if kept:
        yield kept


def _first(data: bytes) -> tuple[int, int]:
    """The size of the request at the beginning, and of what follows and belongs to it.

    0 where that cannot be told yet.
    """
    head, found, _ = data.partition(b"\r\n\r\n")
    if not found:
        return (len(data), 0) if len(data) > PIECE else (0, 0)
    size = len(head) + len(found)
    if _header(head, b"Upgrade") or _header(head, b"Transfer-Encoding"):
        return len(data), _TO_THE_END
    length = int(_header(head, b"Content-Length") or 0)
    is_late = length > _LONG or _header(head, b"Expect")
    return (size, length) if is_late else (size + length, 0)


def call_of(request: bytes) -> str:
    """Such as `POST /containers/x/start`: without a version of Docker's API and without a query."""
    found = re.match(rb"([A-Z]+) (?:/v[0-9.]+(?=/))?([^ ?]*)\S* HTTP/1", request)
    return f"{found[1].decode()} {found[2].decode()}" if found else ""


def beginning(data: bytes, source: socket, part: float) -> bytes:
    """Of the answer that begins with `data`: its head and `part` of its body.

    Of one without a length, a part of what comes first; of one without a body, a part of its head.
    """
    while b"\r\n\r\n" not in data and (more := source.recv(PIECE)):
        data += more
    head, found, body = data.partition(b"\r\n\r\n")
    length = _header(head, b"Content-Length")
    if length == b"0" or head.split(b" ")[1:2] == [b"204"]:
        return head[: int(len(head) * part)]
    body = body or source.recv(PIECE)
    wanted = int((int(length) if length else len(body)) * part)
    while len(body) < wanted and (more := source.recv(PIECE)):
        body += more
    return head + found + body[:wanted] if part else b""


def _header(head: bytes, name: bytes) -> bytes:
    found = re.search(rb"\r\n" + name + rb": *([^\r]*)", head, re.IGNORECASE)
    return found[1] if found else b""
