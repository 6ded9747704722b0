"""A server of HTTP, on a port or a socket, whose errors have 50 MB in one line."""

import gzip
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ERROR_BYTES = 50_000_000
_PIECE = b"x" * 64_000


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Before and after what there is so much of, its headers, and its status.
    around: tuple[bytes, bytes]
    headers_sent: Mapping[str, str]
    status: int

    def do_GET(self) -> None:
        if (length := int(self.headers["Content-Length"] or 0)) > 0:
            self.rfile.read(length)
        if self.path.endswith("/_ping"):
            self._head(200, {"Api-Version": "1.41", "Content-Length": "2"})
            self.wfile.write(b"OK")
            return
        size = sum(map(len, self.around)) + ERROR_BYTES // len(_PIECE) * len(_PIECE)
        is_packed = "Content-Encoding" in self.headers_sent
        until = {"Connection": "close"} if is_packed else {"Content-Length": str(size)}
        self._head(self.status, {**until, **self.headers_sent})
        try:
            self._send_error_body()
        except OSError:
            # Whoever asked has hung up.
            self.close_connection = True

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET

    def _send_error_body(self) -> None:
        before, after = self.around
        is_packed = self.headers_sent.get("Content-Encoding") == "gzip"
        target = gzip.GzipFile(fileobj=self.wfile, mode="wb") if is_packed else self.wfile
        target.write(before)
        for _ in range(ERROR_BYTES // len(_PIECE)):
            target.write(_PIECE)
        target.write(after)
        if is_packed:
            target.close()

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _OnSocket(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@contextmanager
def endless(
    socket: Path | None = None,
    around: tuple[bytes, bytes] = (b'{"message": "', b'"}'),
    headers: Mapping[str, str] | None = None,
    status: int = 500,
) -> Iterator[str]:
    """The address of one: pings are answered as an engine does, everything else by an error."""
    of_this = {"around": around, "headers_sent": headers or {}, "status": status}
    handler = type("Handler", (_Handler,), of_this)
    server: socketserver.BaseServer
    if socket is not None:
        server, address = _OnSocket(str(socket), handler), f"unix://{socket}"
    else:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        address = f"tcp://127.0.0.1:{server.server_port}"
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield address
        finally:
            server.shutdown()
            thread.join()
