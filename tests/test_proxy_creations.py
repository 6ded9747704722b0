"""What the runner asks of an engine, as docker-py writes it, passes the docker-proxy unchanged."""

import json
from typing import Any, NamedTuple
from urllib.parse import urlencode

import docker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.docker_proxy.calls import Said, understood
from flows.docker_proxy.target import taken_apart
from flows.engine.docker.helper import reclaim_arguments
from flows.engine.docker.options import create_arguments
from flows.engine.types import Owner, plan_reclaim
from flows.payload.policy import Policy
from flows.spec import ContainerSpec, Mount
from tests.runs import BUSYBOX
from tests.specs import IMAGE, NOW, compiled, new_run
from tests.strategies import FULL, bounded, valid_payloads

VERSIONS = ["1.41", "1.45", "1.51"]


class Written(NamedTuple):
    target: str
    body: str


class Writer(docker.APIClient):
    """docker-py as it is, but for the way to an engine."""

    def __init__(self, version: str) -> None:
        super().__init__(base_url="tcp://127.0.0.1:1", version=version)

    def post(self, url: Any, data: Any = None, json: Any = None, **given: Any) -> Any:
        asked = {key: value for key, value in (given["params"] or {}).items() if value is not None}
        raise _WrittenError(Written(f"{url.removeprefix(self.base_url)}?{urlencode(asked)}", data))


class _WrittenError(Exception):
    def __init__(self, written: Written) -> None:
        super().__init__()
        self.written = written


def written(version: str, **arguments: Any) -> Written:
    """The creation that docker-py would send."""
    client = docker.DockerClient.__new__(docker.DockerClient)
    client.api = Writer(version)
    with pytest.raises(_WrittenError) as found:
        client.containers.create(**arguments)
    client.close()
    return found.value.written


def passed(request: Written) -> Said:
    """What the proxy makes of it."""
    target = taken_apart(request.target)
    return understood("POST", target, request.body.encode(), "application/json", "")


def require_unchanged(request: Written) -> None:
    said = passed(request)
    assert said.body is not None
    assert json.loads(said.body.as_json()) == json.loads(request.body)


def mounts(job_id: str) -> list[Mount]:
    target = f"/work/agent_jobs/{job_id}"
    return [
        Mount("bind", f"/srv/jobs/{job_id}", target),
        Mount("volume", "agent_workspaces", target, job_id),
    ]


def api(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def spec_of(raw: object, kind: int, policy: Policy) -> ContainerSpec:
    run = new_run()
    return compiled(raw, mounts(run.job_id)[kind], run, policy)


@bounded(60)
@given(valid_payloads, st.sampled_from(VERSIONS), st.sampled_from([0, 1]))
def test_whatever_a_payload_may_ask_for_passes(raw: object, version: str, kind: int) -> None:
    spec = spec_of(raw, kind, Policy(max_gpus=None, allowed_networks=["*"]))
    secrets = dict.fromkeys(spec.secrets, "value")
    arguments = create_arguments(spec, IMAGE, api(version), secrets)
    require_unchanged(written(version, **arguments))


@pytest.mark.parametrize("version", VERSIONS)
def test_whatever_a_policy_may_add_passes(version: str) -> None:
    policy = Policy(
        user="1000:1000", cap_add=["NET_ADMIN"], cap_drop=["ALL"], max_cpus=8, max_memory="16g"
    )
    spec = spec_of(FULL, 1, policy)
    require_unchanged(written(version, **create_arguments(spec, IMAGE, api(version))))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", [0, 1])
def test_the_container_that_gives_files_back_passes(version: str, kind: int) -> None:
    spec = spec_of(FULL, kind, Policy())
    reclaim = plan_reclaim(spec.name, spec.mounts[0], BUSYBOX, Owner(1, 2), spec.labels, NOW)
    require_unchanged(written(version, **reclaim_arguments(reclaim, IMAGE, api(version))))
