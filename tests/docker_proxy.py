"""The docker-proxy as a process of its own, before the real engine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import IN_CI

SOCKET = Path(os.environ.get("DOCKER_HOST", "/var/run/docker.sock").removeprefix("unix://"))


@contextmanager
def docker_proxy(**settings: str) -> Iterator[int]:
    """Run it with these `DOCKER_PROXY_*`; yields its port of loopback."""
    if not SOCKET.is_socket():
        reason = "the Docker Engine has no socket on this machine that the docker-proxy could go to"
        pytest.fail(reason) if IN_CI else pytest.skip(reason)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    given = {
        "DOCKER_PROXY_BIND": f"127.0.0.1:{port}",
        "DOCKER_PROXY_SOCKET": str(SOCKET),
        **settings,
    }
    command = [sys.executable, "-m", "flows.docker_proxy"]
    with subprocess.Popen(command, env=os.environ | given) as process:
        try:
            _until_it_listens(process, port)
            yield port
        finally:
            process.terminate()


@contextmanager
def new_volume(*, is_made: bool = False) -> Iterator[str]:
    """The name of a volume that will not be there afterwards."""
    name = f"proxy-test-{uuid4().hex}"
    if is_made:
        subprocess.run(["docker", "volume", "create", name], check=True, capture_output=True)
    yield name
    subprocess.run(["docker", "volume", "rm", "--force", name], check=True, capture_output=True)


def _until_it_listens(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the docker-proxy ended with {process.returncode}"
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail("the docker-proxy does not listen")
