"""The compose stack as a user would start it, under names of its own."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import httpx
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from scripts.stack import ROOT, Stack, StackError, free_port
from tests.runs import BUSYBOX, until

IMAGES = {
    "WORKER_IMAGE": "moonmind-local/worker:test",
    "WORKER_BASE": "moonmind-local/pip:3",
    "POSTGRES_IMAGE": "moonmind-local/postgres:local",
    "REDIS_IMAGE": "moonmind-local/redis:local",
    "MOONMIND_HELPER_IMAGE": BUSYBOX,
}
# What a host may need to bring back a container that died, with both processors at work.
_PATIENCE_SECONDS = 180.0


class Busy(Exception):
    """The API does not answer, or says that it cannot."""


class Compose(Stack):
    """`docker-compose.yaml` with a project name, port, volumes and random passwords of its own.

    The `.env` and everything else on disk is in `home`. `remove` takes away what it made, but for
    the images, which the next one finds again.
    """

    def __init__(self, home: Path, settings: Mapping[str, str]) -> None:
        super().__init__(home, free_port())
        self.project = f"moonmind-test-{secrets.token_hex(4)}"
        self.workspaces = f"{self.project}_workspaces"
        self.password = secrets.token_hex(16)
        self._values = {
            "POSTGRES_PASSWORD": secrets.token_hex(16),
            "REDIS_PASSWORD": secrets.token_hex(16),
            "PREFECT_PASSWORD": self.password,
            "PREFECT_PORT": str(self.port),
            "AGENT_WORKSPACES_VOLUME": self.workspaces,
            **IMAGES,
            **settings,
        }
        self.change({})

    def change(self, settings: Mapping[str, str]) -> None:
        """Write settings into the `.env`; the next command heeds them."""
        self._values |= settings
        lines = [f"{key}={value}\n" for key, value in self._values.items()]
        (self.home / ".env").write_text("".join(lines))

    @property
    def _words(self) -> list[str]:
        ours = ["--project-name", self.project, "--env-file", str(self.home / ".env")]
        return [*_compose_command(), *ours, "--file", str(ROOT / "docker-compose.yaml")]

    def compose(self, *words: str, stdin: bytes = b"") -> str:
        """Run one compose command; raise `StackError` with what it said."""
        return run(*self._words, *words, stdin=stdin)

    def shell(self, line: str) -> str:
        """Run a line of the documentation, whose `docker compose` is this stack's."""
        ours = " ".join(f"'{word}'" for word in self._words)
        compose = f'shift; {ours} "$@"'
        meant = f'if [ "$1" = compose ]; then {compose}; else command docker "$@"; fi'
        return run("bash", "-euc", f"docker() {{ {meant}; }}\n{line}")

    def container(self, service: str) -> str:
        """The id of the service's container."""
        return self.compose("ps", "--quiet", service).strip()

    def inspect(self, service: str) -> Any:
        """What the engine knows of the service's container."""
        return json.loads(run("docker", "inspect", self.container(service)))[0]

    def healthy(self, *services: str) -> None:
        """Wait until the health checks of the services say so."""
        for service in services:
            until(
                lambda: self.inspect(service)["State"]["Health"]["Status"] == "healthy",  # noqa: B023
                _PATIENCE_SECONDS,
            )

    def kill(self, service: str) -> None:
        """SIGKILL from the host, as when memory runs out; wait until the engine brought it back.

        Not `docker kill`: that counts as stopped by a person, and nothing would restart it.
        """
        before = self.inspect(service)["State"]
        os.kill(before["Pid"], signal.SIGKILL)
        until(
            lambda: (
                (now := self.inspect(service)["State"])["StartedAt"] != before["StartedAt"]
                and now["Running"]
            ),
            _PATIENCE_SECONDS,
        )

    def python(self, service: str, script: str) -> Any:
        """Run a script in the service's container; return the JSON that it prints."""
        command = ["docker", "exec", "--interactive", self.container(service), "python", "-"]
        return json.loads(run(*command, stdin=script.encode()))

    def files(self, volume: str) -> dict[str, bytes]:
        """The regular files of a volume, by their paths in it."""
        reads = ["tar", "-C", "/volume", "-c", "."]
        mount = f"type=volume,source={volume},target=/volume,readonly"
        command = ["docker", "run", "--rm", "--network", "none", "--mount", mount, BUSYBOX, *reads]
        packed = subprocess.run(command, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            return {
                member.name.removeprefix("./"): opened.read()
                for member in archive
                if (opened := archive.extractfile(member) if member.isfile() else None)
            }

    @retry(
        retry=retry_if_exception_type(Busy),
        wait=wait_fixed(0.5),
        stop=stop_after_delay(_PATIENCE_SECONDS),
        reraise=True,
    )
    def api(self, method: str, path: str, **body: object) -> httpx.Response:
        """One request to the API, with the password; again while the server or its database is
        away, so a request that makes something needs an idempotency key."""
        url = f"{self.address}/api{path}"
        auth = ("admin", self.password)
        try:
            answer = httpx.request(method, url, json=body or None, auth=auth, timeout=30)
        except httpx.TransportError as error:
            raise Busy(f"{method} {path}: {error!r}") from error
        if answer.is_server_error:
            raise Busy(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer

    def remove(self) -> None:
        """Take away the containers, networks and volumes."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def run(*words: str, stdin: bytes = b"") -> str:
    """Run a command; return what it printed, or raise `StackError` with what it said."""
    done = subprocess.run(words, input=stdin, capture_output=True, check=False, cwd=ROOT)
    said = done.stdout.decode(errors="replace")
    if done.returncode:
        said = (said + done.stderr.decode(errors="replace")).strip()[-3000:]
        raise StackError(f"{' '.join(words)[-200:]} ended with {done.returncode}: {said}")
    return said


def _compose_command() -> list[str]:
    plugin = ["docker", "compose"]
    found = subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode == 0
    if not found and not shutil.which("docker-compose"):
        raise StackError("install docker compose, or docker-compose 1.29")
    return plugin if found else ["docker-compose"]
