"""Git repositories over loopback: git's own daemon, and smart HTTP with a log-in."""

import base64
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts.stack import free_port

USER, PASSWORD = "robot", "p@ss/w:rd"


def git(folder: Path, *words: str) -> str:
    """Run git in a folder as a fixed author; return what it printed."""
    author = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", "T"), ("EMAIL", "t@example.org"))
    }
    done = subprocess.run(
        ["git", *words],
        cwd=folder,
        env={**os.environ, **author},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def commit_all(folder: Path, message: str) -> str:
    """Commit everything in `folder`, making it a repository first; return the commit."""
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    return git(folder, "rev-parse", "HEAD")


@contextmanager
def git_daemon(base: Path) -> Iterator[str]:
    """Serve every repository below `base` read-only; yields the address of `base`."""
    port = free_port()
    command = [
        "git",
        "daemon",
        "--listen=127.0.0.1",
        f"--port={port}",
        f"--base-path={base}",
        "--export-all",
        "--reuseaddr",
        "--informative-errors",
        "--verbose",
        str(base),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stderr is not None
        while "Ready" not in process.stderr.readline():
            if process.poll() is not None:
                pytest.fail("git daemon did not start")
        yield f"git://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.communicate()


# A status, and headers, to answer in place of the repository's own; None for that one.
Instead = Callable[[str], "tuple[int, Mapping[str, str]] | None"]


@contextmanager
def git_http(
    base: Path,
    instead: Instead = lambda _: None,
    *,
    tls: ssl.SSLContext | None = None,
    public: bool = False,
) -> Iterator[str]:
    """Serve the repositories below `base` to `USER` only, with `tls` by https, but for paths that
    are answered by `instead`; yields `host:port`. Where they are `public`, to whoever shows nothing
    as well, as GitHub does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def _serve(self) -> None:
            if other := instead(self.path):
                self.send_response(other[0])
                for key, value in other[1].items():
                    self.send_header(key, value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            shown = self.headers.get("Authorization")
            if shown != f"Basic {expected}" and not (public and shown is None):
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.end_headers()
                return
            head, _, body = _backend(base, self).partition(b"\r\n\r\n")
            headers = [line.partition(": ")[::2] for line in head.decode().split("\r\n")]
            status = next((value for key, value in headers if key == "Status"), "200")
            self.send_response(int(status.split()[0]))
            for key, value in headers:
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _backend(base: Path, request: BaseHTTPRequestHandler) -> bytes:
    path, _, query = request.path.partition("?")
    body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
    environment: Mapping[str, str] = {
        **os.environ,
        "GIT_PROJECT_ROOT": str(base),
        "GIT_HTTP_EXPORT_ALL": "1",
        "REQUEST_METHOD": request.command,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_TYPE": request.headers.get("Content-Type") or "",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding") or "",
        "GIT_PROTOCOL": request.headers.get("Git-Protocol") or "",
        "REMOTE_USER": USER,
    }
    done = subprocess.run(
        ["git", "http-backend"], env=environment, input=body, capture_output=True, check=True
    )
    return done.stdout
