"""The spec: what will run, decided from payload, policy and run alone."""

import copy
import json
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from flows.payload.policy import Policy
from flows.spec import EXPIRY_SLACK_SECONDS, ContainerSpec, Run, command_summary, is_expired
from tests.specs import JOB, NOW, RUN, VOLUME, compiled
from tests.strategies import FULL, enabled


def fingerprint(spec: ContainerSpec) -> str:
    return spec.labels["moonmind.spec_sha256"]


def test_the_name_is_known_from_the_run_and_its_attempt() -> None:
    assert compiled(FULL).name == "mm-task-7f1e-2"
    assert compiled(FULL, run=replace(RUN, attempt=3)).name == "mm-task-7f1e-3"


def test_the_labels_say_whose_it_is_and_when_it_dies() -> None:
    labels = dict(compiled(FULL).labels)
    assert re.fullmatch(r"[0-9a-f]{64}", labels.pop("moonmind.spec_sha256"))
    assert labels == {
        "moonmind.job_id": "7f1e",
        "moonmind.repository": "https://example.org/team/game.git",
        "moonmind.runtime": "container",
        "moonmind.attempt": "2",
        "moonmind.worker": "host-1",
        "moonmind.created_at": "2026-02-03T04:05:06+00:00",
        "moonmind.expires_at": (NOW + timedelta(seconds=5410 + EXPIRY_SLACK_SECONDS)).isoformat(),
    }


def test_the_environment_is_the_payloads_and_the_runners() -> None:
    raw = enabled(env={"A": "1", "Job_ID": "x"}, artifactsSubdir="reports/unit")
    assert compiled(raw | {"repository": "team/game"}).env == {
        "A": "1",
        "Job_ID": "x",
        "JOB_ID": "7f1e",
        "REPOSITORY": "team/game",
        "ARTIFACT_DIR": f"{JOB}/artifacts/reports/unit",
    }


@pytest.mark.parametrize(
    ("repository", "shown"),
    [
        (None, ""),
        ("team/game", "team/game"),
        ("https://bot:hunter2@example.org/a.git", "https://example.org/a.git"),
        ("https://hunter2@example.org:8443/a.git", "https://example.org:8443/a.git"),
        ("ssh://git:hunter2@example.org/a.git", "ssh://git@example.org/a.git"),
        ("git@example.org:a.git", "git@example.org:a.git"),
    ],
)
def test_no_credential_of_the_repository_gets_into_the_spec(
    repository: str | None, shown: str
) -> None:
    spec = compiled(enabled() | {"repository": repository})
    assert spec.env["REPOSITORY"] == spec.labels["moonmind.repository"] == shown
    assert "hunter2" not in json.dumps(spec.as_json())


@pytest.mark.parametrize(
    ("workdir", "resolved", "mounted"),
    [
        (None, f"{JOB}/repo", True),
        ("/work/agent_jobs/<job_id>/repo/src", f"{JOB}/repo/src", True),
        ("/work/agent_jobs/<job_id>", JOB, True),
        ("/work/agent_jobs/<job_id>0", f"{JOB}0", False),
        ("/work/agent_jobs/another", "/work/agent_jobs/another", False),
        ("/opt//app/./x/", "/opt/app/x", False),
        ("/cache/sub", "/cache/sub", True),
    ],
)
def test_the_working_directory_may_name_the_job(
    workdir: str | None, resolved: str, mounted: bool
) -> None:
    spec = compiled(enabled(workdir=workdir, cacheVolumes=[{"name": "c1", "target": "/cache"}]))
    assert (spec.workdir, spec.workdir_is_mounted) == (resolved, mounted)


def test_the_hosts_time_limit_holds_where_the_payload_sets_none() -> None:
    assert compiled(enabled()).timeout_seconds == 900
    assert compiled(enabled(timeoutSeconds=5)).timeout_seconds == 5


@pytest.mark.parametrize(("memory", "size"), [("512m", 2**29), ("16g", 2**34), (6291456, 6291456)])
def test_memory_becomes_bytes(memory: object, size: int) -> None:
    assert compiled(enabled(resources={"memory": memory})).memory_bytes == size


def test_the_policy_sets_what_no_payload_can() -> None:
    policy = Policy(
        pids_limit=7, no_new_privileges=False, stop_grace_seconds=3, cap_add=["cap_sys_nice"]
    )
    spec = compiled(FULL, policy=policy)
    assert (spec.pids_limit, spec.no_new_privileges) == (7, False)
    assert (spec.stop_grace_seconds, spec.cap_add) == (3, ("SYS_NICE",))
    assert spec.cap_drop == ("NET_RAW",)


def test_what_a_task_leaves_open_the_policy_decides() -> None:
    policy = Policy(
        network="none",
        user="1000:1000",
        max_timeout_seconds=60,
        max_cpus=1.5,
        max_memory="64m",
        pids_limit=9,
    )
    spec = compiled(enabled(), policy=policy)
    assert (spec.network, spec.user, spec.timeout_seconds) == ("none", "1000:1000", 60)
    assert (spec.cpus, spec.memory_bytes, spec.pids_limit) == (1.5, 2**26, 9)


def test_what_a_task_asks_for_within_the_policy_it_gets() -> None:
    asked = enabled(
        network="bridge",
        user="7",
        entrypoint=["/bin/sh"],
        resources={"pids": 5, "shm": "1G", "gpus": "all"},
    )
    spec = compiled(asked, policy=Policy(network="none", max_gpus=None))
    assert (spec.network, spec.user, spec.entrypoint) == ("bridge", "7", ("/bin/sh",))
    assert (spec.pids_limit, spec.shm_bytes, spec.gpus) == (5, 2**30, "all")


def test_a_task_without_a_container_does_not_compile() -> None:
    with pytest.raises(ValueError, match="only a payload with an enabled container"):
        compiled({})


def test_the_fingerprint_is_the_same_for_every_attempt() -> None:
    again = Run("7f1e", attempt=3, worker="host-2", now=NOW + timedelta(hours=1))
    assert fingerprint(compiled(FULL)) == fingerprint(compiled(copy.deepcopy(FULL), run=again))


def test_the_fingerprint_is_the_same_in_every_version() -> None:
    asked = enabled(
        entrypoint=["/bin/sh"], user="7", network="none", env={"A": "ü"}, stopGraceSeconds=0,
        resources={"cpus": 1.5, "memory": "64m", "pids": 5, "shm": "1g", "gpus": 2},
        secrets={"T": "task-t"}, platform="linux/arm64",
        outputs=[{"path": "a/**", "required": True, "type": "junit"}],
        cacheVolumes=[{"name": "c1", "target": "/cache"}],
    )  # fmt: skip
    policy = Policy(max_gpus=None, cap_add=["SYS_NICE"])
    spec = compiled(asked | {"repository": "team/game"}, VOLUME, policy=policy)
    # As an earlier version labelled the containers that this one may find.
    assert [fingerprint(compiled(FULL)), fingerprint(spec)] == [
        "5133f730e248628e88c4ab0596a9935b02cb0c54b984373ee8e1365102ff5726",
        "e1b81ff38ff8cfc151c9141836ff511a002c3d96d8ed922b9b675540879d1ebc",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"image": "busybox:2"},
        {"command": ["true", ""]},
        {"workdir": "/"},
        {"env": {"A": "1"}},
        {"artifactsSubdir": "other"},
        {"timeoutSeconds": 5},
        {"pullTimeoutSeconds": 5},
        {"resources": {"cpus": 1}},
        {"resources": {"memory": "1g"}},
        {"pull": "always"},
        {"platform": "linux/arm64"},
        {"cacheVolumes": [{"name": "c1", "target": "/cache"}]},
    ],
)
def test_the_fingerprint_tells_tasks_apart(change: Any) -> None:
    assert fingerprint(compiled(enabled())) != fingerprint(compiled(enabled(**change)))


def test_the_fingerprint_tells_jobs_policies_and_mounts_apart() -> None:
    others = (
        compiled(FULL, run=replace(RUN, job_id="8")),
        compiled(FULL, policy=Policy(pids_limit=5)),
        compiled(FULL, mount=VOLUME),
        compiled(FULL | {"repository": None}),
    )
    assert len({fingerprint(spec) for spec in (compiled(FULL), *others)}) == 5


@pytest.mark.parametrize(("seconds", "expired"), [(0, False), (16_210, False), (16_211, True)])
def test_an_object_expires_after_its_limit_its_grace_and_some_slack(
    seconds: int, expired: bool
) -> None:
    spec = compiled(FULL)
    assert is_expired(spec.labels, NOW + timedelta(seconds=seconds)) is expired


@pytest.mark.parametrize("text", [None, "", "soon", "2020-01-01T00:00:00", "99999999999"])
def test_unreadable_labels_never_expire(text: str | None) -> None:
    labels = {} if text is None else {"moonmind.expires_at": text}
    assert is_expired(labels, NOW) is False


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("sh", "-c", "a && b"), "sh -c 'a && b'"),
        (("", "it's"), "'' 'it'\"'\"'s'"),
        (("a\nb\r\tc\u2028d",), "'a b c d'"),
        (("x" * 500,), "x" * 119 + "…"),
    ],
)
def test_a_command_is_summed_up_on_one_short_line(command: tuple[str, ...], line: str) -> None:
    assert command_summary(command) == line


def test_the_spec_prints_as_json() -> None:
    printed = compiled(FULL).as_json()
    assert printed.pop("labels")["moonmind.job_id"] == "7f1e"
    assert printed == {
        "job_id": "7f1e",
        "attempt": 2,
        "name": "mm-task-7f1e-2",
        "image": "mcr.microsoft.com/dotnet/sdk:8.0",
        "pull": "if-missing",
        "command": ["bash", "-lc", "dotnet test ./Game.sln --logger junit"],
        "workdir": f"{JOB}/repo",
        "env": {
            "DOTNET_CLI_TELEMETRY_OPTOUT": "1",
            "JOB_ID": "7f1e",
            "REPOSITORY": "https://example.org/team/game.git",
            "ARTIFACT_DIR": f"{JOB}/artifacts/container",
        },
        "mounts": [
            {"kind": "bind", "source": "/srv/jobs/7f1e", "target": JOB, "subpath": "", "owner": ""},
            {
                "kind": "cache",
                "source": "nuget_cache",
                "target": "/home/app/.nuget/packages",
                "subpath": "",
                "owner": "repository:example.org/team/game",
            },
        ],
        "artifacts_subdir": "container",
        "pull_timeout_seconds": 1800,
        "timeout_seconds": 3600,
        "stop_grace_seconds": 10,
        "cpus": 8.0,
        "memory_bytes": 17179869184,
        "pids_limit": 4096,
        "no_new_privileges": True,
        "entrypoint": None,
        "user": None,
        "network": "bridge",
        "shm_bytes": None,
        "gpus": None,
        "cap_add": [],
        "cap_drop": ["NET_RAW"],
        "secrets": {},
        "platform": None,
        "outputs": [],
    }
