"""Who a command runs as, in which network, within which bounds: seen from inside the container."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest
from prefect import get_client

from blocks.policy import POLICY_NAME, ContainerPolicy
from tests.runs import Runner, payload, shell

pytestmark = pytest.mark.docker


@pytest.fixture
async def without_policy(prefect_api: None) -> AsyncIterator[None]:
    """No saved policy after the test, as before it."""
    yield
    async with get_client() as client:
        slug = ContainerPolicy.get_block_type_slug()
        found = await client.read_block_document_by_name(POLICY_NAME, slug)
        await client.delete_block_document(found.id)


@pytest.fixture
def network() -> Iterator[str]:
    """A network of Docker's in which containers do not reach each other."""
    name = f"mm-test-{uuid4().hex[:8]}"
    option = "com.docker.network.bridge.enable_icc=false"
    subprocess.run(
        ["docker", "network", "create", "--opt", option, name], check=True, capture_output=True
    )
    yield name
    subprocess.run(["docker", "network", "rm", name], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("script", "container", "lines"),
    [
        ("id -u; id -g", {}, ["0", "0"]),
        ("id -u; id -g; touch $ARTIFACT_DIR/x && echo may-write", {"user": "1234:567"},
         ["1234", "567", "may-write"]),
        ("ls /sys/class/net", {"network": "none"}, ["lo"]),
        ("ls /sys/class/net", {"network": "bridge"}, ["eth0", "lo"]),
        ("df -k /dev/shm | tail -1 | awk '{print $2}'", {"resources": {"shm": "3m"}}, ["3072"]),
        ("cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max",
         {"resources": {"pids": 77}}, ["77"]),
        ("grep -E 'NoNewPrivs|CapBnd' /proc/self/status | awk '{print $2}'", {},
         ["00000000a80405fb", "1"]),
    ],
)  # fmt: skip
async def test_the_container_gets_what_the_task_asks_for(
    runner: Runner, script: str, container: Any, lines: list[str]
) -> None:
    run = await runner(shell(script, **container))
    assert sorted(run.output.split()) == sorted(lines)


@pytest.mark.parametrize(
    ("entrypoint", "command", "output"),
    [
        (["sh", "-c"], ["echo from-entrypoint"], "from-entrypoint"),
        (["echo", "one"], ["two  three"], "one two  three"),
        ([], ["echo", "no entrypoint"], "no entrypoint"),
    ],
)
async def test_an_entrypoint_takes_the_place_of_the_images_own(
    runner: Runner, entrypoint: list[str], command: list[str], output: str
) -> None:
    run = await runner(payload(*command, entrypoint=entrypoint))
    assert run.output == f"{output}\n"


async def test_an_image_with_an_entrypoint_can_be_run_without_it(runner: Runner) -> None:
    image = f"moonmind-local/entrypoint:{uuid4().hex[:8]}"
    build = f'FROM {shell("")["task"]["container"]["image"]}\nENTRYPOINT ["false"]\n'
    command = ["docker", "build", "--quiet", "--tag", image, "-"]
    subprocess.run(command, input=build, text=True, check=True, capture_output=True)
    try:
        as_it_is = await runner(payload("echo", "x", image=image))
        without = await runner(payload("echo", "x", image=image, entrypoint=[]))
    finally:
        subprocess.run(["docker", "image", "rm", image], check=True, capture_output=True)
    assert (as_it_is.run_json["exitCode"], without.output) == (1, "x\n")


async def test_a_policy_that_is_edited_holds_from_the_next_run_on(
    runner: Runner, without_policy: None, network: str
) -> None:
    task = shell("id -u; ls /sys/class/net | wc -l")
    assert (await runner(task)).output.split() == ["0", "2"]
    await ContainerPolicy(user="1000", network="none", max_memory="64m").asave(POLICY_NAME)
    run = await runner(task)
    assert run.output.split() == ["1000", "1"]
    await ContainerPolicy(allowed_images=["python:*"]).asave(POLICY_NAME, overwrite=True)
    run = await runner(task)
    assert run.state.name == "Rejected"
    assert "allowed_images: python:*" in run.message
    await ContainerPolicy(network=network, allowed_networks=[]).asave(POLICY_NAME, overwrite=True)
    assert (await runner(task)).output.split() == ["0", "2"]
    run = await runner(shell("true", network="bridge"))
    assert "allowed_networks: none" in run.message
