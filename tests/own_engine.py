"""A Docker Engine of the tests' own, that may be killed: nobody else's containers are on it."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self

import psutil

from flows.engine.docker.link_local import commands
from flows.spec import TASK_NETWORK
from tests.runs import BUSYBOX, until

_NUMBERS = itertools.count()


class OwnEngine:
    """A second dockerd with its files in `folder`, on a socket there and a bridge of its own.

    Without `images` it has none. It never goes without a bridge: told to, a dockerd removes the
    one of the host's other engine.
    """

    def __init__(self, folder: Path, *options: str, images: bool = True) -> None:
        self._folder = folder
        self._options = options
        self._has_images = images
        self._process: subprocess.Popen[bytes] | None = None
        number = (os.getpid() + 97 * next(_NUMBERS)) % 250
        self._bridge = f"mm-test{number}"
        self._subnet = f"172.31.{number}.1/24"

    @property
    def url(self) -> str:
        """For DOCKER_HOST."""
        return f"unix://{self._folder}/socket"

    def docker(self, *words: str) -> str:
        """Run the docker command against it; return what it printed."""
        command = ["docker", "--host", self.url, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def await_output(self, text: str) -> None:
        """Wait until one of its containers has printed `text`."""
        until(
            lambda: any(
                text in self.docker("logs", container)
                for container in self.docker("ps", "--quiet").split()
            )
        )

    def start(self) -> None:
        """Start it, again after an end of whatever kind, and wait until it answers."""
        # A dead one's number may be a zombie's, which dockerd takes for alive.
        for path in (self._folder / "pid", self._folder / "run/containerd/containerd.pid"):
            path.unlink(missing_ok=True)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd", "--host", self.url,
                    "--bridge", self._bridge,
                    "--data-root", str(self._folder / "data"),
                    "--exec-root", str(self._folder / "run"),
                    "--pidfile", str(self._folder / "pid"),
                    "--iptables=false", "--ip-masq=false", *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        until(self._answers)

    def end(self, number: signal.Signals) -> None:
        """Send it a signal and wait until it and the containerd that it started are gone."""
        assert self._process is not None
        containerd = (self._folder / "run/containerd/containerd.pid").read_text()
        self._process.send_signal(number)
        self._process.wait(30)
        self._process = None
        until(lambda: not _is_alive(containerd))

    def kill_all(self) -> None:
        """The engine, its containerd and every container, at once: a power cut."""
        assert self._process is not None
        containerd = (self._folder / "run/containerd/containerd.pid").read_text()
        # These first: what they have started since is found afterwards.
        _kill([str(self._process.pid), containerd])
        self._process.wait(30)
        self._process = None
        until(lambda: not _is_alive(containerd))
        while family := [pid for shim in _shims(self._folder) for pid in _family(shim)]:
            _kill(family)
            until(lambda: not any(map(_is_alive, family)))

    def __enter__(self) -> Self:
        self._make_bridge()
        self.start()
        if self._has_images:
            self._load_image()
        return self

    def _make_bridge(self) -> None:
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("address", "add", self._subnet, "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def _load_image(self) -> None:
        image = subprocess.run(["docker", "save", BUSYBOX], check=True, capture_output=True).stdout
        load = ["docker", "--host", self.url, "load", "--quiet"]
        subprocess.run(load, input=image, check=True, capture_output=True)

    def import_image(self, files: bytes, name: str) -> None:
        """Have an image of a tar of files."""
        words = ["docker", "--host", self.url, "import", "-", name]
        subprocess.run(words, input=files, check=True, capture_output=True)

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            shared = self._task_network()
            self.end(signal.SIGTERM)
            # An engine that was killed may have left one that no later one knows.
            _kill(_shims(self._folder))
            _forget(shared)
        _ip("link", "delete", self._bridge)
        # On most file systems it mounts its folder on itself, and leaves that.
        subprocess.run(["umount", "--quiet", self._folder / "data"], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _task_network(self) -> str:
        """The interface of the network that tasks on it share; empty where there is none."""
        option = '{{index .Options "com.docker.network.bridge.name"}}'
        command = ["network", "inspect", "--format", option, TASK_NETWORK]
        with contextlib.suppress(subprocess.CalledProcessError):
            return self.docker(*command).strip()
        return ""

    def _answers(self) -> bool:
        command = ["docker", "--host", self.url, "version"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _shims(folder: Path) -> list[str]:
    """The processes between a containerd whose files are in `folder` and its containers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if b"containerd-shim" in line and str(folder).encode() in line:
                found.append(path.parent.name)
    return found


def _family(pid: str) -> list[str]:
    """A process and what descends from it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(pid))
        return [str(each.pid) for each in (process, *process.children(recursive=True))]
    return []


def _kill(pids: list[str]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def _forget(interface: str) -> None:
    """An engine that ends leaves its networks' interfaces, and nobody takes the rules away."""
    if interface:
        for command in commands(interface):
            rule = ["--delete" if word == "--insert" else word for word in command]
            subprocess.run(rule, capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", interface], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _is_alive(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid.strip()}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" and os.path.exists(f"/proc/{pid.strip()}")
