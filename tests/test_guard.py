"""Create arguments as no layer above would make them: none of them gets as far as Docker."""

from typing import Any

import pytest

from flows.engine.docker.guard import require_within
from flows.engine.docker.options import create_arguments
from flows.errors import PolicyRefused
from flows.payload.policy import Policy
from flows.spec import Mount
from tests.specs import BIND, IMAGE, JOB, VOLUME, compiled
from tests.strategies import enabled

OWN = {"Type": "bind", "Source": "/srv/jobs/7f1e", "Target": JOB}


def arguments(mount: Mount = BIND, version: tuple[int, ...] = (1, 41)) -> dict[str, Any]:
    return create_arguments(compiled(enabled(), mount=mount), IMAGE, version)


def refused(policy: Policy | None = None, **changed: Any) -> str:
    """What is said of arguments that were tampered with."""
    with pytest.raises(PolicyRefused) as refusal:
        require_within(arguments() | changed, compiled(enabled()), policy or Policy())
    return str(refusal.value)


@pytest.mark.parametrize("mount", [BIND, VOLUME])
@pytest.mark.parametrize("version", [(1, 41), (1, 45)])
def test_what_the_runner_makes_of_a_task_is_within_the_rules(
    mount: Mount, version: tuple[int, ...]
) -> None:
    require_within(arguments(mount, version), compiled(enabled(), mount=mount), Policy())


ATTACKS: dict[str, dict[str, Any]] = {
    "privileged": {"privileged": True},
    "privileged by another type": {"privileged": 1},
    "the host's network": {"network_mode": "host"},
    "another container's network": {"network_mode": "container:db"},
    "a network of others": {"network_mode": "backend"},
    "the network on which containers reach each other": {"network_mode": "bridge"},
    "a network that is nearly allowed": {"network_mode": "none "},
    "no network named": {"network_mode": None},
    "the host's processes": {"pid_mode": "host"},
    "the host's memory segments": {"ipc_mode": "host"},
    "the host's host name": {"uts_mode": "host"},
    "the host's users": {"userns_mode": "host"},
    "the host's control groups": {"cgroupns": "host"},
    "a parent control group": {"cgroup_parent": "/"},
    "a device": {"devices": ["/dev/sda:/dev/sda:rwm"]},
    "rules for devices": {"device_cgroup_rules": ["a *:* rwm"]},
    "GPUs that nobody granted": {"device_requests": [{"count": 1, "capabilities": [["gpu"]]}]},
    "another driver's devices": {"device_requests": [{"driver": "cdi", "count": 1}]},
    "a capability": {"cap_add": ["SYS_ADMIN"]},
    "all capabilities": {"cap_add": ["ALL"]},
    "raw packets": {"cap_drop": []},
    "no seccomp profile": {"security_opt": ["no-new-privileges", "seccomp=unconfined"]},
    "no AppArmor profile": {"security_opt": ["apparmor=unconfined"]},
    "new privileges": {"security_opt": []},
    "no bound on processes": {"pids_limit": -1},
    "more processes": {"pids_limit": 5000},
    "no limit on processes at all": {"pids_limit": None},
    "binds by the old door": {"volumes": {"/etc": {"bind": "/etc"}}},
    "volumes of another container": {"volumes_from": ["db"]},
    "the root of the host": {"mounts": [OWN, {"Type": "bind", "Source": "/", "Target": "/host"}]},
    "the Docker socket": {
        "mounts": [OWN, {"Type": "bind", "Source": "/var/run/docker.sock", "Target": "/s"}]
    },
    "all jobs": {"mounts": [{"Type": "bind", "Source": "/srv/jobs", "Target": JOB}]},
    "another job": {"mounts": [{"Type": "bind", "Source": "/srv/jobs/9", "Target": JOB}]},
    "a way up": {"mounts": [{"Type": "bind", "Source": "/srv/jobs/../7f1e", "Target": JOB}]},
    "shared propagation": {"mounts": [OWN | {"BindOptions": {"Propagation": "rshared"}}]},
    "the whole shared volume": {
        "mounts": [{"Type": "volume", "Source": "agent_workspaces", "Target": JOB}]
    },
    "another folder of the volume": {
        "mounts": [
            {
                "Type": "volume",
                "Source": "agent_workspaces",
                "Target": JOB,
                "VolumeOptions": {"Subpath": "9"},
            }
        ]
    },
    "a volume that a driver makes of the host": {
        "mounts": [
            OWN,
            {
                "Type": "volume",
                "Source": "x",
                "Target": "/x",
                "VolumeOptions": {"DriverConfig": {"Options": {"device": "/"}}},
            },
        ]
    },
    "a cache over the kernel's files": {
        "mounts": [OWN, {"Type": "volume", "Source": "x", "Target": "/proc"}]
    },
    "the proxies of Docker's configuration": {"use_config_proxy": True},
    "nothing about those proxies": {"use_config_proxy": None},
    "no folder at all": {"mounts": []},
    "an image by name": {"image": "busybox"},
    "another's name": {"name": "mm-task-9-1"},
    "another's label": {"labels": {"moonmind.job_id": "9"}},
    "a restart for ever": {"restart_policy": {"Name": "always"}},
    "a published port": {"ports": {"22/tcp": 22}},
    "a system setting": {"sysctls": {"kernel.shm_rmid_forced": "0"}},
    "another runtime": {"runtime": "io.example.host"},
    "a log driver of its own": {"log_config": {"Type": "syslog"}},
    "a low chance to be killed": {"oom_score_adj": -1000},
    "no kill for lack of memory": {"oom_kill_disable": True},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_docker_is_never_asked_for(attack: str) -> None:
    changed = ATTACKS[attack]
    assert any(f"{name}:" in refused(**changed) for name in changed)


@pytest.mark.parametrize(
    ("policy", "changed"),
    [
        (Policy(max_memory="64m"), {"mem_limit": None, "memswap_limit": None}),
        (Policy(max_memory="64m"), {"mem_limit": 2**26, "memswap_limit": -1}),
        (Policy(max_memory="64m"), {"mem_limit": 2**27, "memswap_limit": 2**27}),
        (Policy(max_cpus=1), {"nano_cpus": None}),
        (Policy(max_cpus=1), {"nano_cpus": 2 * 10**9}),
        (Policy(allowed_users=["1000"]), {"user": None}),
        (Policy(allowed_users=["1000"]), {"user": "0"}),
        (Policy(cap_drop=["ALL"]), {"cap_drop": ["NET_RAW"]}),
        (Policy(max_gpus=1), {"device_requests": [{"count": -1, "capabilities": [["gpu"]]}]}),
    ],
)
def test_what_a_policy_bounds_is_there_and_within_the_bounds(
    policy: Policy, changed: dict[str, Any]
) -> None:
    assert any(f"{name}:" in refused(policy, **changed) for name in changed)


def test_an_image_that_the_policy_does_not_name_is_refused_last_of_all() -> None:
    assert "image:" in refused(Policy(allowed_images=["python"]))
