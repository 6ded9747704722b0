"""The compose file: accepted by a real compose, without a usable default for any password."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import IN_CI

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docker-compose.yaml"
EXAMPLE = (ROOT / ".env.example").read_text()
PASSWORDS = re.findall(r"^(\w+)=$", EXAMPLE, re.MULTILINE)
DEFAULTS = dict(re.findall(r"^#(\w+)=(.*)$", EXAMPLE, re.MULTILINE))


@pytest.fixture(scope="module")
def stack() -> Any:
    """The file as it stands, with its anchors resolved and its variables not."""
    return YAML(typ="safe").load(FILE)


@pytest.fixture(scope="module")
def compose() -> list[str]:
    """The compose command of this machine."""
    plugin = ["docker", "compose"]
    try:
        if subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode == 0:
            return plugin
    except OSError:
        pass
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if IN_CI:
        pytest.fail("neither docker compose nor docker-compose is installed")
    pytest.skip("neither docker compose nor docker-compose is installed")


def config(
    compose: list[str], values: dict[str, str], folder: Path
) -> "subprocess.CompletedProcess[str]":
    """What `compose config` says with these values and no others."""
    env_file = folder / "env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    command = [*compose, "--file", str(FILE), "--env-file", str(env_file), "config"]
    inherited = {k: v for k, v in os.environ.items() if k not in {*PASSWORDS, *DEFAULTS}}
    return subprocess.run(command, env=inherited, capture_output=True, text=True, check=False)


def test_compose_accepts_the_file_with_the_keys_of_the_example(
    compose: list[str], tmp_path: Path
) -> None:
    found = config(compose, dict.fromkeys(PASSWORDS, "secret"), tmp_path)
    assert found.returncode == 0, found.stderr
    assert "admin:secret" in found.stdout


@pytest.mark.parametrize("missing", PASSWORDS)
@pytest.mark.parametrize("empty", [False, True], ids=["absent", "empty"])
def test_compose_refuses_the_file_without_a_password(
    compose: list[str], missing: str, empty: bool, tmp_path: Path
) -> None:
    given = {name: "secret" for name in PASSWORDS if name != missing}
    found = config(compose, given | ({missing: ""} if empty else {}), tmp_path)
    assert found.returncode != 0
    assert f"Set {missing} in .env" in found.stderr


def test_the_example_names_every_variable_with_its_default() -> None:
    text = FILE.read_text()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == set(PASSWORDS)
    assert set(re.findall(r"\$\{(\w+):-([^}]*)\}", text)) == set(DEFAULTS.items())
    assert set(re.findall(r"\$\{(\w+)", text)) == {*PASSWORDS, *DEFAULTS}


def test_only_the_docker_proxy_mounts_the_docker_socket(stack: Any) -> None:
    mounts = {
        name
        for name, service in stack["services"].items()
        if any("docker.sock" in volume for volume in service.get("volumes", []))
    }
    assert mounts == {"docker-proxy"}


def test_only_the_worker_reaches_the_docker_proxy(stack: Any) -> None:
    reach = {name for name, service in stack["services"].items() if "engine" in service["networks"]}
    assert reach == {"docker-proxy", "worker"}
    assert stack["services"]["docker-proxy"]["networks"] == ["engine"]
    assert stack["networks"]["engine"]["internal"]


def test_nothing_is_published_beyond_loopback(stack: Any) -> None:
    published = [
        port for service in stack["services"].values() for port in service.get("ports", [])
    ]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert not any("network_mode" in service for service in stack["services"].values())


def test_every_service_that_stays_has_a_health_check_and_comes_back(stack: Any) -> None:
    for name, service in stack["services"].items():
        # `deploy` is meant to end: its exit status is its health, and the worker waits for it.
        stays = name != "deploy"
        assert ("healthcheck" in service, service["restart"]) == (
            stays,
            "unless-stopped" if stays else "no",
        )


def test_the_worker_names_the_volume_that_its_folder_lies_in(stack: Any) -> None:
    environment = stack["services"]["worker"]["environment"]
    volume = stack["volumes"]["agent_workspaces"]["name"]
    assert environment["MOONMIND_CONTAINER_WORKSPACE_VOLUME"] == volume
    mount = f"agent_workspaces:{environment['MOONMIND_WORKDIR']}"
    assert mount in stack["services"]["worker"]["volumes"]


def test_server_and_worker_run_the_same_prefect() -> None:
    locked = re.search(r"^prefect==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked
    assert DEFAULTS["PREFECT_IMAGE"].startswith(f"prefecthq/prefect:{locked[1]}-")
