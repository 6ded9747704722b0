"""The `docker run` of a report: what it hands to Docker, and that it does what the task did."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote as encoded
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.blocks.system import Secret
from pydantic import SecretStr

from flows.attempt import Prepared, RetryRules
from flows.engine.docker.engine import DockerEngine
from flows.engine.docker.options import create_arguments
from flows.engine.types import Image
from flows.payload.policy import Policy
from flows.report.docker_run import docker_run, quote
from flows.spec import TASK_NETWORK, ContainerSpec, Run
from flows.workspace.folder import Workspace
from tests.git_server import PASSWORD, USER, commit_all, git_daemon, git_http
from tests.runs import BUSYBOX, PYTHON, Runner, payload
from tests.specs import IMAGE, compiled
from tests.strategies import bounded, enabled, valid_payloads

ODD = [
    "",
    " ",
    "a'b\"c`d$HOME$(id)\\",
    "!history * ? [a] {b} ~ # & ; | < >",
    "tab\tcr\r line\n end\n",
    "\x1b[31mred\x07 \u202egnp \u00a0 é 漢 🐳",
    "-e",
]


def shell(command: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a command as somebody would who copied it."""
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


def prepared(spec: ContainerSpec, folder: Path, repository: str | None = None) -> Prepared:
    commit = "c" * 40 if repository else None
    workspace = Workspace(folder, spec.job_id)
    return Prepared(workspace, spec, repository, commit, None, RetryRules(0, 0, {}), 0.1)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20))
@bounded(30)
def test_a_quoted_word_is_the_word_to_a_shell_and_can_be_seen(word: str) -> None:
    quoted = quote(word)
    assert all(char.isprintable() or char == "\n" for char in quoted)
    said = subprocess.run(["sh", "-c", f"printf %s {quoted}"], capture_output=True, check=True)
    assert said.stdout.decode() == word


@given(valid_payloads)
@bounded(100)
def test_every_variable_has_its_words(raw: Any) -> None:
    spec = compiled(raw)
    said = docker_run(prepared(spec, Path("/srv")), IMAGE)
    variables = {**create_arguments(spec, IMAGE, (1, 41))["environment"], **spec.secrets}
    assert said.count("\n  --env ") == len(variables)


FULL = {
    "entrypoint": ["/bin/sh", "-c"],
    "command": ["echo $0 $1", *ODD],
    "env": {"PLAIN": "1", "EMPTY": "", "ODD": "".join(ODD)},
    "user": "1000:1000",
    "network": "none",
    "workdir": "/tmp",
    "cacheVolumes": [
        {"name": "report_test_cache", "target": "/cache"},
        {"name": "report_test_other", "target": '/a,"odd" path'},
    ],
    "resources": {
        "cpus": 0.3,
        "memory": "100000001",
        "pids": 33,
        "shm": "3m",
        "gpus": 2,
    },
    "platform": "linux/amd64",
}
POLICY = Policy(cap_add=["SYS_NICE"], cap_drop=["NET_RAW", "MKNOD"], max_gpus=None)


def inspected(name: str) -> dict[str, Any]:
    """What the engine holds of a container, less what differs in any two."""
    shown = subprocess.run(["docker", "inspect", name], capture_output=True, check=True)
    (found,) = json.loads(shown.stdout)
    config, host = found["Config"], found["HostConfig"]
    told = {key: config[key] for key in ("User", "WorkingDir")}
    gpus = [{**each, "DeviceIDs": []} for each in host.pop("DeviceRequests") or []]
    mounts = {(each["Type"], each["Destination"], each["RW"]) for each in found["Mounts"]}
    volumes = {each["Name"] for each in found["Mounts"] if each["Type"] == "volume"}
    capabilities = {
        key: {name.removeprefix("CAP_") for name in host.pop(key) or []}
        for key in ("CapAdd", "CapDrop")
    }
    # How the job's folder is mounted, and what `docker create` says of itself.
    for key in ("Binds", "Mounts", "ConsoleSize", "ContainerIDFile", "RestartPolicy"):
        host.pop(key, None)
    if host["NetworkMode"] == TASK_NETWORK:
        # A person's container is on Docker's own.
        host["NetworkMode"] = "bridge"
    return {
        **told,
        **{key: value or None for key, value in host.items()},
        **capabilities,
        "argv": [*(config["Entrypoint"] or []), *config["Cmd"]],
        "gpus": gpus,
        "Env": sorted(config["Env"]),
        "mounts": mounts,
        "volumes": volumes,
        "image": found["Image"],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    volumes = ["docker", "volume", "rm", "-f", "report_test_cache", "report_test_other"]
    subprocess.run(volumes, capture_output=True, check=True)


@pytest.mark.docker
@pytest.mark.parametrize(
    "container",
    [
        {},
        FULL,
        {"entrypoint": [], "user": "7"},
        {"resources": {"cpus": 2, "memory": "1g", "gpus": "all"}},
    ],
    ids=["nothing asked for", "all asked for", "no entrypoint", "all GPUs"],
)
async def test_the_command_makes_the_container_that_the_runner_makes(
    container: Any, folder: Path, outside_a_run: None
) -> None:
    job, policy = str(uuid4()), POLICY if container else Policy()
    workspace = Workspace(folder / "jobs", job)
    raw = enabled(image=BUSYBOX, pull="never", **container)
    spec = compiled(raw, workspace.mount, Run(job, 1, "host", datetime.now(UTC)), policy)
    workspace.create(spec.artifacts_subdir)
    command = docker_run(prepared(spec, folder), None)
    assert command.count("docker run --rm --init") == 1
    name = f"report-test-{job}"
    made = command.replace("docker run --rm --init", f"docker create --init --name {name}")
    async with DockerEngine(policy=policy) as engine:
        try:
            await engine.create(spec, await engine.pull(spec), {})
            assert shell(made, folder).returncode == 0
            assert inspected(name) == inspected(spec.name)
        finally:
            await engine.destroy(spec)
            subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=True)


PRINT = """
import hashlib, os, sys
print(sys.argv[1:], os.getcwd(), sorted(os.listdir('.')), os.getuid())
print(sorted((k, v) for k, v in os.environ.items() if k not in ('HOSTNAME', 'TOKEN')))
print(hashlib.sha256(os.environ['TOKEN'].encode()).hexdigest())
open(os.environ['ARTIFACT_DIR'] + '/result', 'w').write(open('a file').read())
sys.exit(7)
"""


@pytest.mark.docker
async def test_whoever_runs_the_command_sees_what_the_task_saw(
    runner: Runner, tmp_path: Path
) -> None:
    (tmp_path / "served" / "game.git").mkdir(parents=True)
    (tmp_path / "served" / "game.git" / "a file").write_text("of the commit")
    commit = commit_all(tmp_path / "served" / "game.git", "First")
    await Secret(value=SecretStr("the secret's value")).asave("task-report", overwrite=True)
    with git_daemon(tmp_path / "served") as address:
        task = payload(
            "-c",
            PRINT,
            *ODD,
            image=PYTHON,
            entrypoint=["python3", "-B"],
            env={"ODD": "".join(ODD), "EMPTY": ""},
            secrets={"TOKEN": "task-report"},
            resources={"cpus": 1, "memory": "256m"},
        )
        run = await runner({"repository": f"{address}/game.git", **task})
        assert run.run_json["exitCode"] == 7, run.output
        command = run.run_json["dockerRun"]
        assert f"checkout --quiet --detach {commit}" in command
        elsewhere = tmp_path / "elsewhere $HOME 'x'"
        elsewhere.mkdir()
        for _ in range(2):
            done = shell(command, elsewhere, TOKEN="the secret's value")
            assert (done.returncode, done.stderr) == (7, b"")
            assert done.stdout.decode() == run.output
    results = f"{run.job_id}/artifacts/container/result"
    assert (elsewhere / results).read_text() == "of the commit"
    assert "the secret's value" not in json.dumps(run.run_json)


@pytest.mark.docker
async def test_the_command_has_no_credentials_of_the_repository(
    runner: Runner, tmp_path: Path
) -> None:
    (tmp_path / "game.git").mkdir()
    (tmp_path / "game.git" / "a file").write_text("x")
    commit_all(tmp_path / "game.git", "First")
    with git_http(tmp_path) as host:
        login = f"{USER}:{encoded(PASSWORD, safe='')}"
        repository = f"http://{login}@{host}/game.git"
        run = await runner({"repository": repository, **payload("true")})
    assert run.state.is_completed(), run.message
    command = run.run_json["dockerRun"]
    assert f"git clone --quiet --no-checkout http://{host}/game.git " in command
    for credential in (USER, PASSWORD, encoded(PASSWORD, safe="")):
        assert credential not in command


@pytest.mark.parametrize(
    ("image", "digest", "named"),
    [
        ("a:1", "", "a:1"),
        ("a:1", "sha256:d", "a@sha256:d"),
        ("example.org:5000/a/b:1", "sha256:d", "example.org:5000/a/b@sha256:d"),
        ("a@sha256:e", "sha256:e", "a@sha256:e"),
    ],
)
def test_the_image_goes_by_its_digest_where_that_is_known(
    image: str, digest: str, named: str
) -> None:
    spec = compiled(enabled(image="busybox"))
    spec = replace(spec, image=image)
    command = docker_run(prepared(spec, Path("/srv")), Image("sha256:1", digest))
    assert command.endswith(f"\n  {named} true")


def test_a_clone_that_fails_runs_nothing(tmp_path: Path) -> None:
    spec = compiled(enabled(image=BUSYBOX, command=["echo", "ran"]))
    command = docker_run(prepared(spec, tmp_path, "git://127.0.0.1:1/none.git"), None)
    for _ in range(2):
        done = shell(command, tmp_path)
        assert done.returncode != 0
        assert b"ran" not in done.stdout
