"""A proxy before an engine that answers some calls itself, as somebody else's would."""

import http.client
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Said(NamedTuple):
    """What it answers in the engine's place."""

    status: int
    text: str
    media_type: str = "text/plain"


NOT_HERE = Said(403, '{"message":"not here"}', "application/json")


@contextmanager
def refusing_proxy(engine_port: int, calls: str, said: Said = NOT_HERE) -> Iterator[int]:
    """Answers calls such as `POST /containers/x/start` that match; yields its port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = re.sub(r"^/v[0-9.]+/", "/", self.path.partition("?")[0])
            if re.fullmatch(calls, f"{self.command} {path}"):
                self._tell(said.status, {"Content-Type": said.media_type}, said.text.encode())
                return
            connection = http.client.HTTPConnection("127.0.0.1", engine_port, timeout=30)
            given = {key: self.headers[key] for key in ("Content-Type",) if key in self.headers}
            connection.request(self.command, self.path, body, given)
            told = connection.getresponse()
            kept = {k: v for k, v in told.getheaders() if k.lower() in ("api-version", "server")}
            self._tell(told.status, kept, told.read())
            connection.close()

        do_GET = do_POST = do_DELETE = answer

        def _tell(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response_only(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep the tests' output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
