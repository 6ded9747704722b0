"""A network namespace that stands for a host of a cloud: an engine of its own, with its iptables,
and beyond it a metadata service at 169.254.169.254."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.runs import BUSYBOX, until

METADATA = "169.254.169.254"
_SERVICE = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"credentials")
http.server.HTTPServer(("169.254.169.254", 80), Answer).serve_forever()
"""


class OwnHost:
    """Its engine's files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._host, self._cloud = f"mm-h{os.getpid()}", f"mm-c{os.getpid()}"

    @property
    def url(self) -> str:
        """For DOCKER_HOST."""
        return f"unix://{self._folder}/socket"

    def run(self, *words: str) -> str:
        """Run a command on it; what it printed."""
        return subprocess.run(
            [*_within(self._host), *words], capture_output=True, text=True, check=True
        ).stdout

    @contextmanager
    def up(self) -> Iterator[None]:
        """For the block, both namespaces, the engine and the service."""
        for name in (self._host, self._cloud):
            _ip("netns", "add", name)
        try:
            self._connect()
            service = [*_within(self._cloud), sys.executable, "-c", _SERVICE]
            with _ended(service), _ended([*_within(self._host), *self._dockerd()]):
                until(self._answers)
                image = ["docker", "save", BUSYBOX]
                saved = subprocess.run(image, check=True, capture_output=True).stdout
                load = ["docker", "--host", self.url, "load", "--quiet"]
                subprocess.run(load, input=saved, check=True, capture_output=True)
                yield
        finally:
            for name in (self._host, self._cloud):
                _ip("netns", "delete", name)
            subprocess.run(["umount", "--quiet", self._folder / "data"], check=False)

    def _connect(self) -> None:
        """A line between the two, and the way over it to the service."""
        _ip("link", "add", "uplink", "netns", self._host, "type", "veth",
            "peer", "name", "downlink", "netns", self._cloud)  # fmt: skip
        for name, device in ((self._host, "uplink"), (self._cloud, "downlink")):
            _ip("-n", name, "link", "set", device, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", self._host, "address", "add", "198.51.100.1/30", "dev", "uplink")
        _ip("-n", self._cloud, "address", "add", "198.51.100.2/30", "dev", "downlink")
        _ip("-n", self._cloud, "address", "add", f"{METADATA}/32", "dev", "lo")
        _ip("-n", self._host, "route", "add", METADATA, "via", "198.51.100.2")

    def _dockerd(self) -> list[str]:
        return [
            "dockerd", "--host", self.url,
            "--data-root", str(self._folder / "data"),
            "--exec-root", str(self._folder / "run"),
            "--pidfile", str(self._folder / "pid"),
        ]  # fmt: skip

    def _answers(self) -> bool:
        command = ["docker", "--host", self.url, "version"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _within(namespace: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{namespace}"]


@contextmanager
def _ended(command: list[str]) -> Iterator[None]:
    """Have a command run for the block, with its output thrown away."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
