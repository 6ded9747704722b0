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
FURTHER = ROOT / "docker-compose.worker.yaml"
EXAMPLE = (ROOT / ".env.example").read_text()
PASSWORDS = re.findall(r"^(\w+)=$", EXAMPLE, re.MULTILINE)
DEFAULTS = dict(re.findall(r"^#(\w+)=(.*)$", EXAMPLE, re.MULTILINE))
# What a further host must say of itself; the first knows it.
OF_A_FURTHER_HOST = {"PREFECT_API_URL", "MOONMIND_WORKER_NAME"}
# Meant to end: the exit status is their health, and others wait for it.
ONCE = {"migrate", "deploy"}
OURS = {"migrate", "prefect-server", "services", "deploy", "docker-proxy", "worker"}


@pytest.fixture(scope="module")
def composed() -> Any:
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


@pytest.fixture(scope="module")
def further() -> Any:
    """The file of a further host, as it stands."""
    return YAML(typ="safe").load(FURTHER)


def config(
    compose: list[str], values: dict[str, str], folder: Path, file: Path = FILE
) -> "subprocess.CompletedProcess[str]":
    """What `compose config` says with these values and no others."""
    env_file = folder / "env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    command = [*compose, "--file", str(file), "--env-file", str(env_file), "config"]
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


def test_compose_accepts_the_file_of_a_further_host(compose: list[str], tmp_path: Path) -> None:
    values = dict.fromkeys({"PREFECT_PASSWORD", *OF_A_FURTHER_HOST}, "secret")
    found = config(compose, values, tmp_path, FURTHER)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("missing", ["PREFECT_PASSWORD", *sorted(OF_A_FURTHER_HOST)])
def test_compose_refuses_a_further_host_that_does_not_say_who_it_is(
    compose: list[str], missing: str, tmp_path: Path
) -> None:
    values = dict.fromkeys({"PREFECT_PASSWORD", *OF_A_FURTHER_HOST} - {missing}, "secret")
    found = config(compose, values, tmp_path, FURTHER)
    assert found.returncode != 0
    assert f"Set {missing} in .env" in found.stderr


def test_the_example_names_every_variable_with_its_default() -> None:
    text, of_a_further_host = FILE.read_text(), FURTHER.read_text()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == set(PASSWORDS)
    given = re.findall(r"\$\{(\w+):-([^}]*)\}", text)
    assert {*given, ("PREFECT_API_URL", DEFAULTS["PREFECT_API_URL"])} == set(DEFAULTS.items())
    assert set(re.findall(r"\$\{(\w+):-([^}]*)\}", of_a_further_host)) < set(given)
    required = set(re.findall(r"\$\{(\w+):\?", of_a_further_host))
    assert required == {"PREFECT_PASSWORD", *OF_A_FURTHER_HOST}
    assert set(re.findall(r"\$\{(\w+)", text + of_a_further_host)) == {*PASSWORDS, *DEFAULTS}


def test_a_further_host_has_the_same_proxy_and_worker(composed: Any, further: Any) -> None:
    assert set(further["services"]) == {"docker-proxy", "worker"}
    assert further["services"]["docker-proxy"] == composed["services"]["docker-proxy"]
    ours, theirs = composed["services"]["worker"], further["services"]["worker"]
    assert {key for key in ours if ours[key] != theirs.get(key)} == {"depends_on", "environment"}
    of_ours, of_theirs = ours["environment"], theirs["environment"]
    assert set(of_ours) == set(of_theirs)
    assert {key for key in of_ours if of_ours[key] != of_theirs[key]} == OF_A_FURTHER_HOST


def test_only_the_docker_proxy_mounts_the_docker_socket(composed: Any) -> None:
    mounts = {
        name
        for name, service in composed["services"].items()
        if any("docker.sock" in volume for volume in service.get("volumes", []))
    }
    assert mounts == {"docker-proxy"}


def test_only_the_worker_reaches_the_docker_proxy(composed: Any) -> None:
    reach = {
        name for name, service in composed["services"].items() if "engine" in service["networks"]
    }
    assert reach == {"docker-proxy", "worker"}
    assert composed["services"]["docker-proxy"]["networks"] == ["engine"]
    assert composed["networks"]["engine"]["internal"]


def test_nothing_is_published_beyond_loopback(composed: Any) -> None:
    published = [
        port for service in composed["services"].values() for port in service.get("ports", [])
    ]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert not any("network_mode" in service for service in composed["services"].values())


def test_every_service_that_stays_has_a_health_check_and_comes_back(composed: Any) -> None:
    for name, service in composed["services"].items():
        stays = name not in ONCE
        assert ("healthcheck" in service, service["restart"]) == (
            stays,
            "unless-stopped" if stays else "no",
        )


def test_everything_waits_for_what_it_needs(composed: Any) -> None:
    for name, service in composed["services"].items():
        for needed, how in service.get("depends_on", {}).items():
            ends = "completed_successfully" if needed in ONCE else "healthy"
            assert how == {"condition": f"service_{ends}"}, f"{name} waits for {needed}"


def test_the_tables_are_made_once_and_the_services_run_once(composed: Any) -> None:
    services = composed["services"]
    assert "--no-services" in services["prefect-server"]["command"]
    for name in ("prefect-server", "services"):
        environment = services[name]["environment"]
        assert environment["PREFECT_SERVER_DATABASE_MIGRATE_ON_START"] == "false"
        assert "migrate" in services[name]["depends_on"]


def test_what_the_processes_of_the_server_share_is_the_same(composed: Any) -> None:
    services = composed["services"]
    shared = services["services"]["environment"]
    for name in ("migrate", "prefect-server"):
        assert shared.items() <= services[name]["environment"].items()


def test_the_worker_names_the_volume_that_its_folder_lies_in(composed: Any) -> None:
    environment = composed["services"]["worker"]["environment"]
    volume = composed["volumes"]["agent_workspaces"]["name"]
    assert environment["MOONMIND_CONTAINER_WORKSPACE_VOLUME"] == volume
    mount = f"agent_workspaces:{environment['MOONMIND_WORKDIR']}"
    assert mount in composed["services"]["worker"]["volumes"]


def test_server_and_worker_are_one_image_without_root(composed: Any) -> None:
    ours = {name: each for name, each in composed["services"].items() if "build" in each}
    assert set(ours) == OURS
    assert len({(each["image"], str(each["build"])) for each in ours.values()}) == 1
    assert not any("privileged" in each for each in ours.values())
    # Root, for the socket, and without any of root's rights.
    assert {name for name, each in ours.items() if "user" in each} == {"docker-proxy"}
    assert composed["services"]["docker-proxy"]["cap_drop"] == ["ALL"]
    assert composed["services"]["docker-proxy"]["read_only"]
    users = re.findall(r"^USER (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert users == ["runner"]


def test_the_docker_proxy_knows_the_workers_volume(composed: Any) -> None:
    services = composed["services"]
    ours = services["docker-proxy"]["environment"]["DOCKER_PROXY_WORKSPACE_VOLUME"]
    theirs = services["worker"]["environment"]["MOONMIND_CONTAINER_WORKSPACE_VOLUME"]
    assert ours == theirs


def test_no_password_is_a_word_of_a_command(composed: Any) -> None:
    for service in composed["services"].values():
        words = str(service.get("command"))
        assert not any(f"{{{password}" in words for password in PASSWORDS)
