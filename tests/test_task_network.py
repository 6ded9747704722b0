"""The network that tasks share: nobody in it reaches another, and it is made once."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import HTTPServer, SimpleHTTPRequestHandler
from ipaddress import ip_address, ip_network
from pathlib import Path
from threading import Event, Thread
from typing import Any

import docker
import docker.errors
import pytest
from prefect_docker import DockerHost

from flows.cli.doctor.checkup import Level
from flows.cli.doctor.engine import EngineChecks
from flows.cli.doctor.probe import metadata_finding
from flows.engine.docker.engine import DockerEngine
from flows.engine.docker.network import ensure_task_network, network_arguments, problem_of
from flows.engine.docker.ownership import list_owned
from flows.errors import EngineError, EngineRefused
from flows.spec import TASK_NETWORK
from flows.workspace.folder import Workspace
from scripts.stack import ROOT
from tests.findings import assert_all_ok
from tests.gateway import Gateway
from tests.own_engine import OwnEngine
from tests.own_host import METADATA, OwnHost
from tests.runs import BUSYBOX, Runner, payload, shell, until
from tests.specs import IMAGE, compiled, new_run

INSPECTED: dict[str, Any] = {
    "Driver": "bridge",
    "Options": {"com.docker.network.bridge.enable_icc": "false"},
    "Labels": {"moonmind.network": "tasks"},
}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, None),
        ({"Labels": {}}, "was not made by the runner"),
        ({"Labels": None}, "was not made by the runner"),
        ({"Options": {}}, "lets its containers reach each other"),
        ({"Options": None}, "lets its containers reach each other"),
        (
            {"Options": {"com.docker.network.bridge.enable_icc": "true"}},
            "lets its containers reach each other",
        ),
        ({"Driver": "macvlan"}, "lets its containers reach each other"),
    ],
)
def test_a_network_of_the_name_is_the_runners_and_keeps_tasks_apart(
    changed: dict[str, Any], problem: str | None
) -> None:
    assert problem_of(INSPECTED | changed) == problem


@pytest.fixture
def server_on_the_host() -> Iterator[int]:
    """A web server on every address of this host; its port."""
    server = HTTPServer(("0.0.0.0", 0), SimpleHTTPRequestHandler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def listening(engine: docker.DockerClient, network: str) -> Iterator[str]:
    """The address of another task's container that answers `reached` on port 8000."""
    script = "while :; do echo reached | nc -l -p 8000; done"
    container = engine.containers.run(
        BUSYBOX, ["sh", "-c", script], network=network, detach=True, init=True
    )
    try:
        container.reload()
        address = container.attrs["NetworkSettings"]["Networks"][network]["IPAddress"]
        until(lambda: answer_of(address) == b"reached\n")
        yield address
    finally:
        container.remove(force=True)


def answer_of(address: str) -> bytes:
    try:
        with socket.create_connection((address, 8000), timeout=1) as connection:
            return connection.recv(100)
    except OSError:
        return b""


@pytest.mark.docker
async def test_a_task_reaches_the_host_and_no_other_task(
    runner: Runner, server_on_the_host: int
) -> None:
    first = await runner(payload("true"))
    with closing(docker.from_env()) as engine, listening(engine, TASK_NETWORK) as address:
        run = await runner(
            shell(
                f"nc -w 3 {address} 8000 </dev/null 2>/dev/null || echo no task; "
                "host=$(ip route | awk '/default/ {print $3}'); "
                f"wget -q -O /dev/null http://$host:{server_on_the_host}/ && echo the host"
            )
        )
    assert (first.state.name, run.output) == ("Completed", "no task\nthe host\n")


@pytest.mark.docker
async def test_bridge_is_this_network_in_payloads_and_the_report_says_it_for_a_person(
    runner: Runner,
) -> None:
    run = await runner(shell("grep -c nameserver /etc/resolv.conf; hostname -i", network="bridge"))
    (shown,) = [line for line in run.run_json["dockerRun"].splitlines() if "--network" in line]
    assert shown.strip(" \\") == "--network bridge"
    command = ["docker", "network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}"]
    subnet = subprocess.run(
        [*command, TASK_NETWORK], capture_output=True, text=True, check=True
    ).stdout
    assert ip_address(run.output.split()[1]) in ip_network(subnet.strip())


@pytest.fixture(scope="module")
def own_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    """An engine without images, on which networks are nobody else's; two more fit."""
    pool = ("--default-address-pool", "base=172.30.240.0/23,size=24")
    with OwnEngine(tmp_path_factory.mktemp("engine"), *pool, images=False) as engine:
        yield engine


@pytest.fixture
def api(own_engine: OwnEngine) -> Iterator[docker.APIClient]:
    """Of an engine that has no network for tasks, before and after."""
    with closing(docker.APIClient(own_engine.url, version="auto")) as api:
        yield api
        for each in api.networks(names=[TASK_NETWORK]):
            api.remove_network(each["Id"])


@pytest.mark.docker
def test_however_many_need_it_at_once_there_is_one_network(
    own_engine: OwnEngine, api: docker.APIClient
) -> None:
    def ensure(_: int) -> str:
        with closing(docker.APIClient(own_engine.url, version="auto")) as own:
            return ensure_task_network(own)

    with ThreadPoolExecutor(12) as threads:
        interfaces = set(threads.map(ensure, range(12)))
    (found,) = api.networks(names=[TASK_NETWORK])
    assert interfaces == {found["Options"]["com.docker.network.bridge.name"]}
    assert problem_of(found) is None
    # It is nobody's job's, so no sweep removes it.
    assert list(list_owned(api)) == []


@pytest.mark.docker
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"labels": {}}, "was not made by the runner"),
        ({"options": {}}, "lets its containers reach each other"),
    ],
)
def test_a_network_of_others_by_that_name_is_never_used(
    api: docker.APIClient, changed: dict[str, Any], said: str
) -> None:
    api.create_network(**(network_arguments("mm-of-others") | changed))
    with pytest.raises(EngineError) as refusal:
        ensure_task_network(api)
    assert str(refusal.value) == (
        f"the network moonmind-tasks of this engine {said}; remove it (docker network rm "
        "moonmind-tasks), so that the runner makes its own, or name another network in the "
        "container policy (network)"
    )


class Tries(docker.APIClient):
    """Tells when it was refused a network."""

    refused = Event()

    def create_network(self, *words: Any, **named: Any) -> Any:
        """The engine's."""
        try:
            return super().create_network(*words, **named)
        except docker.errors.APIError:
            self.refused.set()
            raise


@pytest.mark.docker
def test_one_that_finds_no_addresses_while_others_make_the_network_has_theirs(
    own_engine: OwnEngine, api: docker.APIClient
) -> None:
    taken = [api.create_network(f"taken-{number}")["Id"] for number in range(2)]
    with closing(Tries(own_engine.url, version="auto")) as late, ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(ensure_task_network, late)
        assert Tries.refused.wait(30)
        for each in taken:
            api.remove_network(each)
        made = ensure_task_network(api)
        assert waiting.result(30) == made


@pytest.mark.docker
def test_an_engine_without_addresses_left_says_what_to_do(
    own_engine: OwnEngine, api: docker.APIClient
) -> None:
    taken = [api.create_network(f"taken-{number}")["Id"] for number in range(2)]
    try:
        with pytest.raises(EngineError, match="docker network prune") as refusal:
            ensure_task_network(api)
    finally:
        for each in taken:
            api.remove_network(each)
    assert "address pool" in str(refusal.value)
    # And when there are, it goes on.
    assert ensure_task_network(api).startswith("mm-")


@pytest.mark.docker
@pytest.mark.parametrize(
    ("refused", "call"),
    [
        ("GET /networks/.*", "GET /networks/moonmind-tasks"),
        ("GET /networks", "GET /networks"),
        ("POST /networks/create", "POST /networks/create"),
    ],
)
async def test_a_proxy_that_keeps_calls_about_networks_from_the_engine_is_told_what_to_do(
    own_engine: OwnEngine, api: docker.APIClient, refused: str, call: str
) -> None:
    run = new_run()
    spec = compiled(payload("true"), Workspace(Path("/srv/jobs"), run.job_id).mount, run)
    with Gateway(own_engine.url) as engine, engine.saying(refused):
        async with DockerEngine(host=DockerHost(base_url=engine.url)) as through:
            with pytest.raises(EngineError) as refusal:
                await through.create(spec, IMAGE, {})
    # It is the operator's to mend, and no fault of the task's.
    assert not isinstance(refusal.value, EngineRefused)
    assert "moonmind-tasks, which tasks share: not here; " in str(refusal.value)
    assert f"let {call} through" in str(refusal.value)
    assert "or name another network in the container policy (network)" in str(refusal.value)


@pytest.mark.docker
async def test_doctor_tells_of_a_network_that_is_none_of_the_runners(
    own_engine: OwnEngine, api: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", own_engine.url)
    assert_all_ok(await EngineChecks(1.0).check_network())
    api.remove_network(TASK_NETWORK)
    api.create_network(TASK_NETWORK)
    (found,) = await EngineChecks(1.0).check_network()
    assert found.level is Level.FAULT
    assert "was not made by the runner" in found.says
    assert "docker network rm moonmind-tasks" in found.mend


def test_doctor_tells_of_a_metadata_service_and_how_to_refuse_it() -> None:
    assert metadata_finding({}, "mm-1234").level is Level.OK
    found = metadata_finding({"metadata": "yes"}, "mm-1234")
    assert found.level is Level.WARNING
    rule = "--in-interface mm-1234 --destination 169.254.0.0/16 --jump REJECT"
    assert found.mend == (
        f"on the engine's host, as root: iptables --insert DOCKER-USER {rule} && "
        f"iptables --insert INPUT {rule}"
    )


ASK = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {METADATA} 80 2>&1"
# One task, and what it was answered.
TASK = f"""
import asyncio, sys
from pathlib import Path
from prefect.logging import disable_run_logger
from flows.engine.docker.engine import DockerEngine
from flows.runtime import execution
from tests.runs import shell
from tests.specs import Collector, compiled, new_run
from flows.workspace.folder import Workspace

async def main():
    output = Collector()
    async with DockerEngine() as engine:
        run = new_run()
        workspace = Workspace(Path(sys.argv[1]), run.job_id)
        workspace.create("container")
        spec = compiled(shell({ASK!r}), workspace.mount, run)
        await execution.run(engine, spec, output)
    print(output.output.decode())

with disable_run_logger():
    asyncio.run(main())
"""


@pytest.mark.docker
@pytest.mark.thorough
def test_a_worker_that_is_root_on_the_engines_host_refuses_tasks_the_metadata_service(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Sockets have short paths.
    host = OwnHost(tmp_path_factory.mktemp("host"))
    with host.up():
        docker_run = ("docker", "--host", host.url, "run", "--rm", BUSYBOX, "sh", "-c", ASK)
        assert "credentials" in host.run(*docker_run)
        for _ in range(2):
            answer = host.run(
                *("env", f"DOCKER_HOST={host.url}", f"PYTHONPATH={ROOT}"),
                *(sys.executable, "-c", TASK, str(tmp_path / "jobs")),
            )
            assert "Connection refused" in answer
            assert "credentials" not in answer
        for chain in ("DOCKER-USER", "INPUT"):
            assert host.run("iptables", "-S", chain).count("-d 169.254.0.0/16") == 1
