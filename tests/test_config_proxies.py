"""The proxies of Docker's own client configuration, which its clients give to every container."""

import json
from pathlib import Path

import pytest

from tests.runs import Runner, shell

pytestmark = pytest.mark.docker
PASSWORD = "correct-horse-battery"
PROXY = f"http://builder:{PASSWORD}@proxy.example.org:3128"
NO_PROXY = "localhost,.example.org"


@pytest.fixture(autouse=True)
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration of a host that reaches the network by a proxy with a password."""
    proxies = {"default": {"httpProxy": PROXY, "noProxy": NO_PROXY}}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": proxies}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


async def test_no_container_gets_the_proxies_of_the_workers_docker_configuration(
    runner: Runner,
) -> None:
    run = await runner(shell("env | grep -i proxy || true"))
    assert run.state.is_completed()
    assert run.output == ""
