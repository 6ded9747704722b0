"""What is no task's is refused by the docker-proxy, in a sentence."""

import http.client
import json
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus, urlencode
from uuid import uuid4

import docker
import docker.types
import pytest

from flows.docker_proxy.bodies import Container, Host, Subpath, VolumeMount
from flows.docker_proxy.engine import Answer, Engine
from flows.docker_proxy.refused import Refused
from flows.docker_proxy.rights import Rights
from flows.docker_proxy.settings import Settings
from flows.engine.docker.network import ensure_task_network
from tests.docker_proxy import docker_proxy, new_volume
from tests.own_engine import OwnEngine
from tests.runs import BUSYBOX

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def workspace_volume() -> Iterator[str]:
    with new_volume() as name:
        yield name


@pytest.fixture(scope="module")
def port(workspace_volume: str) -> Iterator[int]:
    """A port of loopback where the proxy answers; it lets bind mounts through, as the worker of
    these tests is no container."""
    settings = {
        "DOCKER_PROXY_BIND_MOUNTS": "allow",
        "DOCKER_PROXY_WORKSPACE_VOLUME": workspace_volume,
    }
    with docker_proxy(**settings) as number:
        yield number


@pytest.fixture
def volume() -> Iterator[str]:
    with new_volume() as name:
        yield name


def events_of(*containers: str) -> str:
    """The filter that the runner asks with, as a part of an address."""
    filters = {"container": containers, "event": ["die"], "type": ["container"]}
    return quote_plus(json.dumps(filters, separators=(",", ":")))


# An id that no container has: what the proxy lets through, the engine answers with 404.
ID = "0" * 64
NO_JOB = "00000000-0000-4000-8000-000000000000"
TASK = f"mm-task-{NO_JOB}-1"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/containers/{ID}/exec"),
        ("POST", f"/containers/{ID}/kill"),
        ("POST", f"/containers/{ID}/update"),
        ("POST", f"/containers/{ID}/json"),
        ("GET", f"/containers/{ID}/attach"),
        ("GET", f"/containers/{ID}/attach/ws"),
        ("GET", f"/containers/{ID}/export"),
        ("GET", f"/containers/{ID}/archive"),
        ("PUT", f"/containers/{ID}/archive"),
        ("POST", "/exec/1/start"),
        ("GET", "/containers/json"),
        ("POST", "/containers/prune"),
        ("POST", "/containers/create"),
        ("POST", "/containers/create?name=postgres"),
        ("POST", "/containers/create?name=postgres-files"),
        # A container of somebody else, by its name or by a short form of its id.
        ("GET", "/containers/postgres/json"),
        ("POST", "/containers/postgres/stop"),
        ("POST", "/containers/postgres/pause"),
        ("POST", "/containers/postgres/unpause"),
        ("DELETE", "/containers/postgres"),
        ("GET", f"/containers/{ID[:12]}/json"),
        ("GET", "/volumes"),
        ("POST", "/volumes/prune"),
        ("DELETE", "/volumes/postgres%2Fdata"),
        ("POST", "/build"),
        ("POST", "/commit"),
        ("POST", "/images/create?fromSrc=-"),
        ("POST", "/images/load"),
        ("POST", "/images/busybox/push"),
        ("DELETE", "/images/busybox"),
        ("GET", "/images/json"),
        ("POST", "/distribution/busybox/json"),
        ("GET", "/distribution/json"),
        ("GET", "/distribution/busybox"),
        ("GET", "/distribution/../containers/json"),
        ("GET", "/images/../containers/json"),
        ("GET", "/images/%2e%2e/containers/json"),
        ("POST", "/swarm/init"),
        ("GET", "/secrets"),
        ("GET", "/configs"),
        ("GET", "/services"),
        ("GET", "/plugins"),
        ("POST", "/plugins/pull"),
        ("GET", "/networks"),
        ("POST", "/networks/create"),
        ("POST", "/auth"),
        ("POST", "/session"),
        ("GET", "/containers/postgres/stats"),
        ("GET", "/events"),
        ("GET", f"/events?since=1&until=2&filters={events_of('postgres')}"),
        # Without an end; with a second container; with a parameter that only the engine decodes.
        ("GET", f"/events?since=1&filters={events_of(TASK)}"),
        ("GET", f"/events?since=1&until=2&filters={events_of(TASK, 'postgres')}"),
        ("GET", f"/events?%66ilters=&since=1&until=2&filters={events_of(TASK)}"),
        ("GET", f"/events?since=1&until=2&filters={events_of(TASK).replace('%22die%22', '')}"),
        ("POST", f"/events?since=1&until=2&filters={events_of(TASK)}"),
        ("GET", "/system/df"),
        ("GET", "/info"),
        ("GET", "/v1.41/info"),
        ("GET", "//info"),
        ("GET", "/v1.41//info"),
        ("GET", "/v1.41/v1.41/_ping"),
        ("POST", "/_ping"),
        ("GET", "/"),
    ],
)
def test_what_the_runner_does_not_call_is_refused(port: int, method: str, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path)
    answer = connection.getresponse()
    assert (answer.status, b"docker-proxy" in answer.read()) == (403, True)
    connection.close()


def created(port: int, host_config: str, name: str = TASK, **more: object) -> int:
    """The status of the answer to a creation of an image that is not there; `host_config` is JSON
    as somebody may write it."""
    for key, value in (("NetworkMode", '"none"'), ("CapDrop", '["NET_RAW"]')):
        if f'"{key}"' not in host_config and host_config.startswith("{"):
            comma = ", " if host_config != "{}" else ""
            host_config = f'{{"{key}": {value}{comma}{host_config[1:]}'
    rest = {"Image": f"none-{ID}", "Labels": {"moonmind.job_id": NO_JOB}, **more}
    body = f'{{{json.dumps(rest)[1:-1]}, "HostConfig": {host_config}}}'
    return asked(port, "POST", f"/containers/create?name={name}", body)[0]


def asked(port: int, method: str, path: str, body: str | None = None) -> tuple[int, str]:
    """The status of an answer, and what it says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {} if body is None else {"Content-Type": "application/json"}
    connection.request(method, path, body and body.encode(), headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


# What an old engine reads in any case and with any escapes; the rest is in test_proxy_attacks.py.
@pytest.mark.parametrize(
    "host_config",
    [
        '{"Privileged": true}',
        '{"privileged":false}',
        '{"Pr\\u0069vileged": true}',
        '{"Privileged": null}',
        '{"Privileged": 0}',
        '{"Privileged": false, "Privileged": false}',
        '{"Binds": []}',
        '{"Bind\\u017f": ["/:/host"]}',
        '{"Bind\N{LATIN SMALL LETTER LONG S}": ["/:/host"]}',
        '{"Networ\\u212aMode": "host"}',
        '{"NetworkMode": "host"}',
        '{"NetworkMode": "container:db"}',
        '{"NetworkMode": "stack_database"}',
        '{"NetworkMode": "bridge"}',
        '{"NetworkMode": "default"}',
        '{"NetworkMode": ""}',
        '{"MaskedPaths": []}',
        '{"CapAdd": ["]", "SYS_ADMIN"]}',
        '{"CapAdd": ["CAP_SYS_PTRACE"]}',
        '{"CapAdd": ["DAC_READ_SEARCH"]}',
        '{"CapAdd": ["NET_ADMIN"]}',
        '{"CapAdd": ["NET_RAW"]}',
        '{"CapDrop": []}',
        '{"CapDrop": ["CAP_ALL", "CHOWN"], "NetworkMode": "moonmind-tasks"}',
        '{"SecurityOpt": ["label=user:]", "seccomp=unconfined"]}',
        '{"SecurityOpt": ["no-new-privileges:false"]}',
        '{"UsernsMode": "host"}',
        '{"LogConfig": {"Type": "json-file", "Config": {}}}',
        '{"DeviceRequests": [{"Driver": "cdi", "Count": 1, "Capabilities": [["gpu"]]}]}',
        '{"DeviceRequests": [{"Count": 1, "Capabilities": [["gpu", "all"]]}]}',
        '{"Memory": 1e3}',
        '{"Memory": NaN}',
        '{"PidsLimit": -1}',
        '{"Mounts": [{"Type": "tmpfs", "Target": "/x"}]}',
        '{"Mounts": [{"Type": "volume", "Source": "proxy-test-none", "Target": "/x"}]}',
        '{"Mounts": [{"Type": "volume", "Source": "/", "Target": "/x"}]}',
        '{"Mounts": [{"Type": "volume", "Source": "x", "Target": "/x/../proc"}]}',
        '{"x": "' + 900_000 * "x" + '"}',
        "[" * 100_000 + "]" * 100_000,
        "null",
    ],
    ids=lambda text: text[:50],
)
def test_what_a_task_does_not_ask_for_is_refused(port: int, host_config: str) -> None:
    assert created(port, host_config) == 403


@pytest.mark.parametrize(
    "host_config",
    [
        "{}",
        '{"Privileged": false, "NetworkMode": "moonmind-tasks", "Init": true, "Mounts": []}',
        '{"CapAdd": ["CHOWN", "CAP_SYS_NICE"], "CapDrop": ["ALL"], "NanoCpus": 1500000000}',
        '{"SecurityOpt": ["no-new-privileges"], "Memory": 67108864, "MemorySwap": 67108864}',
        '{"\\u0049nit": true, "ShmSize": 1, "PidsLimit": 4096}',
        '{"CapDrop": ["CHOWN", "CAP_NET_RAW"], "NetworkMode": "moonmind-tasks"}',
    ],
    ids=lambda text: text[:50],
)
def test_what_a_task_asks_for_is_for_the_engine_to_make(port: int, host_config: str) -> None:
    # It has no such image.
    assert created(port, host_config) == 404


NETWORK: dict[str, Any] = {
    "Name": "moonmind-tasks",
    "Driver": "bridge",
    "Options": {
        "com.docker.network.bridge.enable_icc": "false",
        "com.docker.network.bridge.name": "mm-0123abcd",
    },
    "IPAM": None,
    "CheckDuplicate": True,
    "Labels": {"moonmind.network": "tasks"},
}


@pytest.mark.parametrize(
    "change",
    [
        {"Name": "bridge"},
        {"Name": "moonmind-tasks2"},
        {"Driver": "host"},
        {"Driver": "macvlan"},
        {"Options": {}},
        {"Options": NETWORK["Options"] | {"com.docker.network.bridge.enable_icc": "true"}},
        {"Options": NETWORK["Options"] | {"com.docker.network.bridge.name": "docker0"}},
        {"Options": NETWORK["Options"] | {"com.docker.network.bridge.name": "mm-../x"}},
        {"Options": NETWORK["Options"] | {"com.docker.network.bridge.default_bridge": "true"}},
        {"Options": NETWORK["Options"] | {"parent": "eth0"}},
        {"IPAM": {"Config": [{"Subnet": "10.0.0.0/8"}]}},
        {"Labels": {}},
        {"Labels": {"moonmind.network": "tasks", "moonmind.job_id": NO_JOB}},
        {"CheckDuplicate": False},
        {"Internal": True},
        {"Attachable": True},
        {"Ingress": True},
        {"ConfigFrom": {"Network": "x"}},
        {"EnableIPv6": True},
    ],
    ids=str,
)
def test_of_networks_only_the_one_that_tasks_share_can_be_made(
    port: int, change: dict[str, object]
) -> None:
    status, text = asked(port, "POST", "/networks/create", json.dumps(NETWORK | change))
    assert (status, "docker-proxy" in text) == (403, True)


@pytest.mark.parametrize(
    "filters",
    ["{}", '{"type": ["custom"]}', '{"label": ["moonmind.job_id"]}',
     '{"type": ["builtin", "custom"]}', '{"name": ["bridge"]}',
     '{"type": ["builtin"], "label": ["moonmind.job_id"]}'],
)  # fmt: skip
def test_networks_of_others_are_not_listed(port: int, filters: str) -> None:
    path = f"/networks?{urlencode({'filters': filters})}"
    assert asked(port, "GET", path)[0] == 403
    assert asked(port, "GET", "/networks/bridge")[0] == 403


def test_the_network_that_tasks_share_is_made_through_the_proxy(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with OwnEngine(tmp_path_factory.mktemp("engine"), images=False) as own:
        socket = own.url.removeprefix("unix://")
        with docker_proxy(DOCKER_PROXY_SOCKET=socket) as port:
            api = docker.APIClient(f"tcp://127.0.0.1:{port}", version="1.41")
            interface = ensure_task_network(api)
            assert ensure_task_network(api) == interface
            api.close()
        option = '{{index .Options "com.docker.network.bridge.name"}}'
        told = own.docker("network", "inspect", "--format", option, "moonmind-tasks")
        assert told.strip() == interface


@pytest.mark.parametrize(
    "env", [['A="privileged": true'], ["B=ü\u2028\U0001f600"], ["x" * 600_000]]
)
def test_a_tasks_own_words_may_be_any(port: int, env: list[str]) -> None:
    assert created(port, "{}", Env=env) == 404


def test_what_docker_py_says_of_gpus_is_for_the_engine_to_check(port: int) -> None:
    """In the words of a real client, whose defaults are of its version."""
    request = docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])
    assert created(port, json.dumps({"DeviceRequests": [request]})) == 404


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"moonmind.job_id": "00000000-0000-4000-8000-000000000001"},
        {"moonmind.job_id": NO_JOB, "traefik.enable": "true"},
        {"moonmind.job_id": NO_JOB, "moonmind.JOB_ID": NO_JOB},
        {"moonmind.job_id": 1},
    ],
)
def test_a_container_with_other_labels_than_its_jobs_is_refused(
    port: int, labels: dict[str, object]
) -> None:
    assert created(port, "{}", Labels=labels) == 403


HELPER = {
    "NetworkMode": "none",
    "ReadonlyRootfs": True,
    "CapDrop": ["ALL"],
    "CapAdd": ["CHOWN", "DAC_OVERRIDE", "FOWNER"],
    "SecurityOpt": ["no-new-privileges"],
    "UsernsMode": "host",
    "LogConfig": {"Type": "json-file", "Config": {"max-size": "64k"}},
}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 403),
        ({"Mounts": [{"Type": "bind", "Source": "/", "Target": "/host"}]}, 403),
        ({"Mounts": [{"Type": "volume", "Source": "{cache}", "Target": "/usr"}]}, 403),
        ({"NetworkMode": "bridge"}, 403),
        ({"ReadonlyRootfs": False}, 403),
        ({"CapDrop": []}, 403),
        ({"CapAdd": ["NET_ADMIN"]}, 403),
        ({"UsernsMode": "private"}, 403),
        ({"LogConfig": {"Type": "syslog", "Config": {}}}, 403),
    ],
)
def test_what_is_the_helpers_alone_goes_with_nothing_else(
    port: int, volume: str, change: dict[str, object], status: int
) -> None:
    assert asked(port, "POST", "/volumes/create", cache(volume))[0] == 201
    folder = f"/srv/jobs/{NO_JOB}"
    own = {"Type": "bind", "Source": folder, "Target": f"/work/agent_jobs/{NO_JOB}"}
    helper = f"mm-task-{NO_JOB}-1-files"
    # The engine has no such folder.
    assert created(port, json.dumps({**HELPER, "Mounts": [own]}), helper) == 400
    host_config = json.dumps({**HELPER, "Mounts": [own], **change}).replace("{cache}", volume)
    assert created(port, host_config, helper if change else TASK) == status


def test_what_an_operator_names_is_let_through() -> None:
    capabilities = "CAP_SYS_PTRACE NET_RAW"
    settings = {"NETWORKS": "tasks, builds", "VOLUMES": "models", "CAPABILITIES": capabilities}
    with docker_proxy(**{f"DOCKER_PROXY_{key}": each for key, each in settings.items()}) as port:
        assert created(port, '{"NetworkMode": "builds"}') == 404
        assert created(port, '{"CapAdd": ["CAP_SYS_PTRACE"], "CapDrop": []}') == 404
        models = '{"Mounts": [{"Type": "volume", "Source": "models", "Target": "/models"}]}'
        assert created(port, models) == 404
        assert created(port, models.replace("models", "model")) == 403
        mounts = json.dumps({**HELPER, **json.loads(models)})
        assert created(port, mounts, f"{TASK}-files") == 403, "the helper has no business in it"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("NETWORKS", "host", "host is no task's network"),
        ("CAPABILITIES", "CAP_ALL", "name each"),
    ],
)
def test_what_no_operator_can_allow_is_refused_at_the_start(
    name: str, value: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Settings.from_environment({f"DOCKER_PROXY_{name}": value})


def test_a_bind_mount_is_refused_unless_it_is_allowed_and_a_jobs_folder(port: int) -> None:
    def mounts(source: str, target: str) -> str:
        return json.dumps({"Mounts": [{"Type": "bind", "Source": source, "Target": target}]})

    own = f"/work/agent_jobs/{NO_JOB}"
    # The engine has no such folder.
    assert created(port, mounts(f"/srv/{NO_JOB}", own)) == 400
    assert created(port, mounts("/", own)) == 403
    assert created(port, mounts(f"/srv/{NO_JOB}/..", own)) == 403
    assert created(port, mounts(f"/srv/{NO_JOB}", "/host")) == 403
    with docker_proxy() as strict:
        assert created(strict, mounts(f"/srv/{NO_JOB}", own)) == 403


def cache(name: str, **more: object) -> str:
    """The creation of a cache of this name."""
    labels = {"moonmind.cache": "true", "moonmind.cache_owner": "repository:github.com/team/app"}
    return json.dumps({"Name": name, "Labels": labels, **more})


def run_volume(device: str, **more: object) -> str:
    """The creation of the volume that shows a job's folder, or another."""
    options = {"type": "none", "o": "bind", "device": device}
    labels = {"moonmind.job_id": NO_JOB}
    name = f"mm-task-{NO_JOB}-1-workspace"
    return json.dumps(
        {"Name": name, "Driver": "local", "DriverOpts": options, "Labels": labels, **more}
    )


def test_a_volume_leads_to_the_jobs_own_folder_alone(port: int, workspace_volume: str) -> None:
    made = ["docker", "volume", "create", workspace_volume]
    subprocess.run(made, check=True, capture_output=True)
    shown = ["docker", "volume", "inspect", "--format", "{{.Mountpoint}}", workspace_volume]
    folder = subprocess.check_output(shown, text=True).strip()
    own = f"{folder}/{NO_JOB}"
    try:
        for refused in (
            run_volume("/"),
            run_volume(folder),
            run_volume(f"{own}/.."),
            run_volume(f"{own}/"),
            run_volume(f"{folder}/00000000-0000-4000-8000-000000000001"),
            run_volume(own, DriverOpts={"type": "nfs", "o": "addr=10.0.0.1", "device": own}),
            run_volume(own, DriverOpts={"type": "none", "o": "bind,suid", "device": own}),
            run_volume(own, Driver="other"),
            run_volume(own, Name="cache"),
            run_volume(own, Labels={}),
            run_volume(own, Labels={"moonmind.job_id": NO_JOB, "moonmind.cache": "true"}),
            cache(f"{TASK}-workspace"),
        ):
            assert asked(port, "POST", "/volumes/create", refused)[0] == 403, refused
        assert asked(port, "POST", "/volumes/create", run_volume(own))[0] == 201
        mount = {"Type": "volume", "Source": f"{TASK}-workspace", "Target": "/etc"}
        assert created(port, json.dumps({"Mounts": [mount]})) == 403
        mount["Target"] = f"/work/agent_jobs/{NO_JOB}"
        assert created(port, json.dumps({"Mounts": [mount]})) == 404
    finally:
        made_volume = f"/volumes/mm-task-{NO_JOB}-1-workspace"
        assert asked(port, "DELETE", made_volume)[0] in (204, 404)


@pytest.mark.parametrize("options", [None, {}, {"Subpath": NO_JOB}, {"Subpath": "."}])
def test_the_workspace_and_others_volumes_are_not_mounted_as_they_are(
    port: int, workspace_volume: str, options: object
) -> None:
    for source in (workspace_volume, "somebody-elses"):
        mount = {"Type": "volume", "Source": source, "Target": "/x", "VolumeOptions": options}
        assert created(port, json.dumps({"Mounts": [mount]})) == 403


def of_mount(mount: VolumeMount) -> Container:
    host = Host(NetworkMode="none", CapDrop=["ALL"], Mounts=[mount])
    return Container(Image="busybox", Labels={"moonmind.job_id": NO_JOB}, HostConfig=host)


class OneVolume(Engine):
    """An engine on which there is one volume, whatever is asked for."""

    def __init__(self, **found: object) -> None:
        super().__init__("/nonexistent")
        self._found = found

    async def ask(self, path: str) -> Answer:
        return Answer(200, {}, json.dumps(self._found).encode())


@pytest.mark.parametrize(
    ("workspace", "found"),
    [
        ("", {"Driver": "nfs", "Options": None}),
        ("jobs", {"Driver": "local", "Options": None}),
        ("jobs", {"Driver": "local", "Options": {"type": "nfs", "o": "bind"}}),
        ("jobs", {"Driver": "local", "Options": {"type": "none", "o": "addr=10.0.0.1"}}),
        ("jobs", {"Driver": "nfs", "Options": {"type": "none", "o": "bind"}}),
    ],
)
async def test_a_volume_of_the_name_of_a_runs_that_is_another_is_not_mounted(
    workspace: str, found: dict[str, Any]
) -> None:
    if found["Options"]:
        found["Options"]["device"] = f"/v/{NO_JOB}"
    engine = OneVolume(Mountpoint="/v", Labels=None, **found)
    rights = Rights(engine, Settings(("127.0.0.1", 1), workspace_volume=workspace))
    target = f"/work/agent_jobs/{NO_JOB}"
    mount = VolumeMount(Type="volume", Source=f"{TASK}-workspace", Target=target)
    with pytest.raises(Refused, match="not the job's folder"):
        await rights.require_container(TASK, of_mount(mount), "/v1.41")


def test_of_a_volume_of_others_no_options_are_told(port: int) -> None:
    """They may have the password of a share."""
    name = f"proxy-test-{uuid4().hex}"
    options = ("type=cifs", "o=username=joe,password=hunter2", "device=//nas/share")
    label = f"--label=moonmind.job_id={NO_JOB}"
    create = ["docker", "volume", "create", label, *(f"--opt={each}" for each in options), name]
    subprocess.run(create, check=True, capture_output=True)
    try:
        ours = urlencode({"filters": '{"label": ["moonmind.job_id"]}'})
        answers = (
            asked(port, "GET", f"/volumes/{name}"),
            asked(port, "GET", f"/volumes?{ours}"),
            asked(port, "POST", "/volumes/create", cache(name)),
        )
        for status, says in answers:
            assert status in (200, 201)
            assert name in says
            assert "moonmind.job_id" in says
            assert "hunter2" not in says
    finally:
        subprocess.run(["docker", "volume", "rm", name], check=True, capture_output=True)


def test_of_a_container_of_others_with_a_jobs_label_no_command_is_told(port: int) -> None:
    name = f"proxy-test-{uuid4().hex}"
    words = ["--name", name, "--label", f"moonmind.job_id={NO_JOB}", BUSYBOX, "echo", "hunter2"]
    subprocess.run(["docker", "create", *words], check=True, capture_output=True)
    try:
        ours = urlencode({"filters": '{"label": ["moonmind.job_id"]}'})
        status, says = asked(port, "GET", f"/containers/json?all=1&{ours}")
        assert (status, name in says, "hunter2" in says) == (200, True, False)
    finally:
        subprocess.run(["docker", "rm", name], check=True, capture_output=True)


async def test_a_folder_of_a_volume_is_asked_for_in_a_version_that_knows_it() -> None:
    """An older one would mount the whole volume."""
    settings = Settings(("127.0.0.1", 1), workspace_volume="jobs")
    mount = VolumeMount(
        Type="volume",
        Source="jobs",
        Target=f"/work/agent_jobs/{NO_JOB}",
        VolumeOptions=Subpath(Subpath=NO_JOB),
    )
    body = of_mount(mount)
    rights = Rights(Engine("/nonexistent"), settings)
    await rights.require_container(TASK, body, "/v1.45")
    elsewhere = of_mount(mount.model_copy(update={"Target": "/x"}))
    with pytest.raises(Refused, match="'/x'"):
        await rights.require_container(TASK, elsewhere, "/v1.45")
    for version in ("", "/v1.44", "/v1.24"):
        with pytest.raises(Refused, match="asked for in API"):
            await rights.require_container(TASK, body, version)


def test_of_volumes_only_caches_are_removed(port: int, volume: str) -> None:
    subprocess.run(["docker", "volume", "create", volume], check=True, capture_output=True)
    status, says = asked(port, "DELETE", f"/volumes/{volume}")
    assert (status, "it is no cache" in says) == (403, True)
    subprocess.run(["docker", "volume", "rm", volume], check=True, capture_output=True)
    owner = {"moonmind.cache_owner": "repository:github.com/team/app"}
    for labels in ({"moonmind.cache": "true"}, owner, {**owner, "moonmind.cache": "1"}):
        nobodys = json.dumps({"Name": volume, "Labels": labels})
        assert asked(port, "POST", "/volumes/create", nobodys)[0] == 403
    cache = json.dumps({"Name": volume, "Labels": {"moonmind.cache": "true", **owner}})
    assert asked(port, "POST", "/volumes/create", cache)[0] == 201
    assert asked(port, "DELETE", f"/volumes/{volume}")[0] == 204


def test_a_container_of_somebody_else_is_not_reached_by_its_id(port: int) -> None:
    name = f"proxy-test-{uuid4().hex}"
    create = ["docker", "create", "--name", name, BUSYBOX, "true"]
    container_id = subprocess.check_output(create, text=True).strip()
    try:
        box = f"/containers/{container_id}"
        for call in (f"GET {box}/json", f"GET {box}/logs", f"POST {box}/start", f"DELETE {box}"):
            status, says = asked(port, *call.split())
            assert (status, "is not a task's" in says) == (403, True)
    finally:
        subprocess.run(["docker", "rm", name], check=True, capture_output=True)


def test_a_body_of_unknown_length_is_refused(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    pieces = (each for each in (b'{"Image": "none"', b', "HostConfig": {}}'))
    connection.request("POST", f"/containers/create?name=mm-task-{NO_JOB}-1", pieces)
    assert connection.getresponse().status == 403
    connection.close()


@pytest.mark.parametrize(
    "version", ["1.12", "1.9", "1.24", "1.40", "1.041", "01.41", "1.41/v1.41", "2.0"]
)
@pytest.mark.parametrize("body", ["", '{"Privileged": true}'])
def test_an_api_version_older_than_the_oldest_engine_is_refused(
    port: int, version: str, body: str
) -> None:
    assert asked(port, "POST", f"/v{version}/containers/{ID}/start", body)[0] == 403


@pytest.mark.parametrize("body", ["{}", '{"Privileged": true}', "null", " "])
def test_a_call_that_takes_no_body_is_refused_with_one(port: int, body: str) -> None:
    assert asked(port, "POST", f"/v1.41/containers/{ID}/start", body)[0] == 403


@pytest.mark.parametrize(
    "query",
    [
        "fromSrc=http%3A%2F%2F127.0.0.1%3A1%2Fx",
        "fromImage=&fromSrc=http%3A%2F%2F127.0.0.1%3A1%2Fx&repo=busybox&tag=1",
        "fromImage=&tag=1",
        "fromImage=busybox",
        "fromImage=busybox&tag=1&repo=other",
        "fromImage=busybox&tag=1&changes=CMD+sh",
        "fromImage=busybox&tag=1&fromImage=other",
        "fromImage=busybox&tag=1&from%49mage=other",
        "fromimage=busybox&tag=1",
        "fromImage=../busybox&tag=1",
        "fromImage=busybox&tag=1%0d%0aX:y",
    ],
)
def test_an_image_is_pulled_by_its_name_and_in_no_other_way(port: int, query: str) -> None:
    assert asked(port, "POST", f"/images/create?{query}")[0] == 403
