"""A registry of the tests' own, small images in it, and a proxy before it that fails as told."""

import gzip
import hashlib
import http.client
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx

from scripts.stack import free_port
from tests.runs import until

USER, PASSWORD = "reader", "correct-horse"
# bcrypt of PASSWORD, so that no program is needed to make it.
_HTPASSWD = f"{USER}:$2b$04$YsLw.v0X0AJx8NZmeEZyq.LoB.S3i8ABeGpyr5SaTBp683yZUWFcC\n"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_MANIFESTS = "application/vnd.docker.distribution.manifest.list.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """Debian's docker-registry on a free port of loopback; with `login`, for USER alone."""

    def __init__(self, folder: Path, *, login: bool = False) -> None:
        self._folder = folder
        self._login = login
        self._label = f"moonmind-test-{uuid4().hex}"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._folder / "data")}},
            "http": {"addr": f"127.0.0.1:{self.port}"},
        }
        if self._login:
            (self._folder / "htpasswd").write_text(_HTPASSWD)
            file = {"realm": "tests", "path": str(self._folder / "htpasswd")}
            settings["auth"] = {"htpasswd": file}
        (self._folder / "config.yml").write_text(json.dumps(settings))
        program = shutil.which("docker-registry")
        assert program, "docker-registry is not installed"
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "serve", str(self._folder / "config.yml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self._answers)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(60)

    @property
    def host(self) -> str:
        """For an image's name."""
        return f"127.0.0.1:{self.port}"

    def forget(self) -> None:
        """Remove from the engine whatever came from here, through whichever proxy."""
        command = ["docker", "images", "--quiet", "--no-trunc", "--filter", f"label={self._label}"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        if found:
            remove = ["docker", "image", "rm", "--force", *dict.fromkeys(found)]
            subprocess.run(remove, capture_output=True, check=True)

    def push(self, *layers: bytes, architecture: str = "amd64", tag: str = "1") -> str:
        """Put an image of such layers, a file each, under a new name; the name and tag."""
        name = f"test-{uuid4().hex}"
        self.push_as(name, tag, *layers, architecture=architecture)
        return f"{name}:{tag}"

    def push_program(self, program: bytes) -> str:
        """Put an image that no engine has seen, with /bin/sh; the name and tag."""
        name = f"test-{uuid4().hex}"
        self.push_as(name, "1", os.urandom(16), program, paths=("unique", "bin/sh"))
        return f"{name}:1"

    def push_as(
        self,
        name: str,
        tag: str,
        *layers: bytes,
        architecture: str = "amd64",
        paths: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Put an image under a name and tag; its entry in a manifest list."""
        paths = paths or [f"file-{number}" for number in range(len(layers))]
        packed = [layer_of(path, data) for path, data in zip(paths, layers, strict=True)]
        config = json.dumps(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Cmd": ["true"], "Labels": {self._label: name}},
                "rootfs": {"type": "layers", "diff_ids": [_digest(tar) for tar, _ in packed]},
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {"mediaType": _CONFIG, **self._blob(name, config)},
                "layers": [{"mediaType": _LAYER, **self._blob(name, gz)} for _, gz in packed],
            }
        ).encode()
        self._put_manifest(name, tag, _MANIFEST, manifest)
        return {
            "mediaType": _MANIFEST,
            "digest": _digest(manifest),
            "size": len(manifest),
            "platform": {"os": "linux", "architecture": architecture},
        }

    def push_list(self, *architectures: str) -> str:
        """Put an image for each architecture under one name; the name and tag."""
        name = f"test-{uuid4().hex}"
        entries = [
            self.push_as(name, each, os.urandom(64), architecture=each) for each in architectures
        ]
        return self.push_manifests(name, *entries)

    def push_manifests(self, name: str, *entries: Any) -> str:
        """Put the list of those that `push_as` put under this name; the name and tag."""
        listed = {"schemaVersion": 2, "mediaType": _MANIFESTS, "manifests": entries}
        self._put_manifest(name, "1", _MANIFESTS, json.dumps(listed).encode())
        return f"{name}:1"

    def _blob(self, name: str, data: bytes) -> dict[str, Any]:
        with self._client() as client:
            started = client.post(f"/v2/{name}/blobs/uploads/").raise_for_status()
            place = httpx.URL(started.headers["Location"])
            digest = _digest(data)
            client.put(
                place.copy_merge_params({"digest": digest}),
                content=data,
                headers={"Content-Type": "application/octet-stream"},
            ).raise_for_status()
        return {"digest": digest, "size": len(data)}

    def _put_manifest(self, name: str, tag: str, kind: str, data: bytes) -> None:
        with self._client() as client:
            client.put(
                f"/v2/{name}/manifests/{tag}", content=data, headers={"Content-Type": kind}
            ).raise_for_status()

    def _client(self) -> httpx.Client:
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            auth=(USER, PASSWORD) if self._login else None,
            timeout=60,
            trust_env=False,
        )

    def _answers(self) -> bool:
        try:
            with self._client() as client:
                return client.get("/v2/").status_code == 200
        except httpx.HTTPError:
            return False


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer_of(name: str, data: bytes) -> tuple[bytes, bytes]:
    """A layer with one file: as it is, and packed."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(data), 0o755
        tar.addfile(entry, io.BytesIO(data))
    return made.getvalue(), gzip.compress(made.getvalue(), compresslevel=1)


@dataclass
class Answer:
    """What a fault makes of an answer.

    `status` replaces it; `cut_after` breaks a longer one off after so many bytes; `corrupt`
    changes a byte; `held` keeps it back until the fault is over, and breaks off then.
    """

    status: int | None = None
    cut_after: int | None = None
    corrupt: bool = False
    held: bool = False


Fault = Callable[[str, str], Answer | None]


def on(part: str, answer: Answer, times: int = 10**6) -> Fault:
    """A fault of the first so many requests with `part` in their path."""
    left = iter(range(times))

    def fault(_method: str, path: str) -> Answer | None:
        return answer if part in path and next(left, None) is not None else None

    return fault


class _Server(ThreadingHTTPServer):
    """Many runs connect at a time; some break off, which is no news."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Keep the tests' output clean."""


@dataclass
class FaultyProxy:
    """Forwards to the registry at `target`; `fault(method, path)` tells what to do otherwise."""

    target: int
    fault: Fault = lambda method, path: None
    requests: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._fault_over = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def host(self) -> str:
        """For an image's name."""
        return f"127.0.0.1:{self._server.server_port}"

    def count(self, part: str, method: str = "GET") -> int:
        """The requests so far with `part` in their path."""
        with self._lock:
            return sum(each == method and part in path for each, path in self.requests)

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Fail like this for the length of the block."""
        before, self.fault = self.fault, fault
        try:
            yield
        finally:
            self.fault = before
            self._fault_over.set()
            self._fault_over = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._fault_over.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._serve(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                """Keep the tests' output clean."""

        return Handler

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.requests.append((request.command, request.path))
            answer = self.fault(request.command, request.path) or Answer()
            fault_over = self._fault_over
        if answer.held:
            fault_over.wait()
            request.close_connection = True
            return
        if answer.status is not None:
            request.send_response(answer.status)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
        try:
            upstream.putrequest(
                request.command, request.path, skip_host=True, skip_accept_encoding=True
            )
            # One by one: what may be accepted comes in several headers of one name.
            for key, value in request.headers.items():
                upstream.putheader(key, value)
            upstream.endheaders()
            self._pass_on(request, upstream.getresponse(), answer)
        finally:
            upstream.close()

    def _pass_on(
        self, request: BaseHTTPRequestHandler, given: http.client.HTTPResponse, answer: Answer
    ) -> None:
        data = given.read()
        request.send_response(given.status)
        for key, value in given.getheaders():
            if key.lower() not in ("date", "server", "connection"):
                request.send_header(key, value)
        request.end_headers()
        if answer.corrupt and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if answer.cut_after is not None and len(data) > answer.cut_after:
            data = data[: answer.cut_after]
            request.close_connection = True
        request.wfile.write(data)
