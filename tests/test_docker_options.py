"""What a spec becomes in Docker's words: everything that a task can ask of an engine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.engine.docker.guard import require_within
from flows.engine.docker.options import create_arguments
from flows.engine.docker.volumes import (
    cache_volume_arguments,
    needs_run_volume,
    run_volume_arguments,
)
from flows.errors import PayloadError
from flows.payload.parse import parse, require_runnable
from flows.payload.policy import Policy
from flows.spec import Mount
from tests.specs import BIND, IMAGE, JOB, VOLUME, compiled
from tests.strategies import FULL, bounded, enabled, mutated_payloads, valid_payloads

CACHE_MOUNT = {"Type": "volume", "Source": "nuget_cache", "Target": "/home/app/.nuget/packages"}


@pytest.mark.parametrize(
    ("mount", "api_version", "job_mount"),
    [
        (BIND, (1, 41), {"Type": "bind", "Source": "/srv/jobs/7f1e", "Target": JOB}),
        (
            VOLUME,
            (1, 41),
            {"Type": "volume", "Source": "mm-task-7f1e-2-workspace", "Target": JOB},
        ),
        (
            VOLUME,
            (1, 45),
            {
                "Type": "volume",
                "Source": "agent_workspaces",
                "Target": JOB,
                "VolumeOptions": {"Subpath": "7f1e"},
            },
        ),
    ],
)
def test_a_full_payload_becomes_these_arguments(
    mount: Mount, api_version: tuple[int, ...], job_mount: object
) -> None:
    spec = compiled(FULL, mount=mount)
    assert create_arguments(spec, IMAGE, api_version) == {
        "image": IMAGE.id,
        "command": ["bash", "-lc", "dotnet test ./Game.sln --logger junit"],
        "name": "mm-task-7f1e-2",
        "environment": {
            **spec.env,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": f"{JOB}/repo",
        },
        "use_config_proxy": False,
        "labels": dict(spec.labels),
        "working_dir": f"{JOB}/repo",
        "mounts": [job_mount, CACHE_MOUNT],
        "init": True,
        "privileged": False,
        "network_mode": "moonmind-tasks",
        "security_opt": ["no-new-privileges"],
        "cap_add": [],
        "cap_drop": ["NET_RAW"],
        "pids_limit": 4096,
        "nano_cpus": 8_000_000_000,
        "mem_limit": 17179869184,
        "memswap_limit": 17179869184,
    }


def test_limits_that_are_not_asked_for_are_not_set() -> None:
    arguments = create_arguments(compiled(enabled()), IMAGE, (1, 41))
    unset = {"nano_cpus", "mem_limit", "memswap_limit", "entrypoint", "user", "shm_size"}
    assert not unset & set(arguments)


def test_an_older_engine_gets_a_volume_that_shows_one_folder() -> None:
    spec = compiled(FULL, mount=VOLUME)
    assert [needs_run_volume(VOLUME, version) for version in ((1, 41), (1, 44), (1, 45))] == [
        True,
        True,
        False,
    ]
    assert not needs_run_volume(BIND, (1, 41))
    assert run_volume_arguments(spec, VOLUME, "/var/lib/docker/volumes/w/_data") == {
        "name": "mm-task-7f1e-2-workspace",
        "driver": "local",
        "driver_opts": {
            "type": "none",
            "o": "bind",
            "device": "/var/lib/docker/volumes/w/_data/7f1e",
        },
        "labels": dict(spec.labels),
    }


def test_a_cache_volume_is_recognisable_and_belongs_to_no_job() -> None:
    arguments = cache_volume_arguments(Mount("cache", "nuget_cache", "/c", owner="repository:x/y"))
    labels = {"moonmind.cache": "true", "moonmind.cache_owner": "repository:x/y"}
    assert arguments == {"name": "nuget_cache", "labels": labels}


@bounded(120)
@given(
    valid_payloads | mutated_payloads(),
    st.sampled_from([BIND, VOLUME]),
    st.sampled_from([(1, 41), (1, 45)]),
)
def test_no_payload_gets_more_than_a_container_may_have(
    raw: object, mount: Mount, api_version: tuple[int, ...]
) -> None:
    try:
        require_runnable(parse(raw))
        spec = compiled(raw, mount=mount)
    except PayloadError:
        return
    arguments = create_arguments(spec, IMAGE, api_version)
    require_within(arguments, spec, Policy())
    job, *caches = arguments["mounts"]
    assert arguments["privileged"] is False
    assert arguments["network_mode"] in ("moonmind-tasks", "none")
    assert arguments["security_opt"] == ["no-new-privileges"]
    assert 1 <= arguments["pids_limit"] <= 4096
    assert arguments["cap_add"] == []
    assert arguments["environment"]["JOB_ID"] == arguments["labels"]["moonmind.job_id"] == "7f1e"
    assert job["Target"] == JOB
    assert job["Source"] in {"/srv/jobs/7f1e", "agent_workspaces", "mm-task-7f1e-2-workspace"}
    assert job["Source"] != "agent_workspaces" or job["VolumeOptions"] == {"Subpath": "7f1e"}
    for cache in caches:
        assert set(cache) == {"Type", "Source", "Target"}
        assert cache["Type"] == "volume"
        assert "/" not in cache["Source"]
        assert not cache["Target"].startswith(JOB)
