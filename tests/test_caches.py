"""Whose a cache volume is, and who else may mount it."""

import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import docker as docker_py
import pytest

from blocks.policy import POLICY_NAME, ContainerPolicy
from flows.engine.docker.guard import require_within
from flows.engine.docker.options import create_arguments
from flows.engine.docker.volumes import create_volumes
from flows.errors import PolicyRefused, Rejected
from flows.payload.policy import Policy
from flows.spec import ContainerSpec, Mount
from tests.git_server import commit_all, git_daemon
from tests.runs import Finished, Runner, shell
from tests.specs import IMAGE, RUN, VOLUME, compiled
from tests.strategies import enabled

BEFORE = "moonmind.cache=true"
docker_engine = pytest.mark.docker


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def volume() -> Iterator[str]:
    """The name of a volume that does not exist yet, and will not afterwards."""
    name = f"cache-test-{uuid4().hex}"
    yield name
    docker("volume", "rm", "--force", name)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A git server with the repositories of two teams."""
    base = tmp_path_factory.mktemp("teams")
    for team in ("one", "two"):
        (base / team / "app.git").mkdir(parents=True)
        (base / team / "app.git" / "file").touch()
        commit_all(base / team / "app.git", "First")
    with git_daemon(base) as daemon:
        yield daemon


def owner_of(repository: str | None, run: Any = RUN, **policy: Any) -> str:
    """Whose the cache of such a run is."""
    raw = enabled(cacheVolumes=[{"name": "nuget_cache", "target": "/c"}])
    spec = compiled(raw | {"repository": repository}, run=run, policy=Policy(**policy))
    return next(mount.owner for mount in spec.mounts if mount.kind == "cache")


@pytest.mark.parametrize(
    ("repository", "owner"),
    [
        ("team/app", "repository:github.com/team/app"),
        ("https://build:token@GitHub.com:443/team/app.git", "repository:github.com/team/app"),
        ("git@github.com:team/app.git", "repository:github.com/team/app"),
        ("https://github.com/team/App", "repository:github.com/team/App"),
        ("https://git.example.org:8443/app", "repository:git.example.org:8443/app"),
        # Below the home of that account, which is another place.
        ("mallory@git.example.org:team/app", "repository:mallory@git.example.org/team/app"),
        (None, "flow:container-task"),
    ],
)
def test_a_cache_is_of_the_repository_by_its_address(repository: str | None, owner: str) -> None:
    assert owner_of(repository) == owner


def test_a_cache_of_a_run_without_a_repository_is_its_deployments() -> None:
    deployed = replace(RUN, deployment="container-task/nightly")
    assert owner_of(None, run=deployed) == "deployment:container-task/nightly"
    assert owner_of("team/app", run=deployed) == "repository:github.com/team/app"


def test_a_cache_that_the_policy_shares_is_everybodys() -> None:
    assert owner_of("team/app", allowed_caches=["nuget_*"]) == "*"
    assert owner_of("team/app", allowed_caches=["npm_*"]) == "repository:github.com/team/app"


@pytest.fixture
async def policy(prefect_api: None) -> AsyncIterator[Callable[..., Any]]:
    """Saves rules that hold until the test is over."""

    async def save(**rules: Any) -> None:
        await ContainerPolicy(**rules).asave(POLICY_NAME, overwrite=True)

    yield save
    with suppress(ValueError):
        await ContainerPolicy.adelete(POLICY_NAME)


def guarded(spec: ContainerSpec, policy: Policy) -> None:
    """What the guard says of the spec's container."""
    require_within(create_arguments(spec, IMAGE, (1, 45)), spec, policy)


async def run_of(runner: Runner, repository: str, volume: str, script: str) -> Finished:
    task = shell(script, cacheVolumes=[{"name": volume, "target": "/cache"}])
    return await runner(task | {"repository": repository})


@docker_engine
async def test_nobody_mounts_the_cache_of_another_repository(
    runner: Runner, address: str, volume: str, policy: Any
) -> None:
    one, two = f"{address}/one/app.git", f"{address}/two/app.git"
    made = await run_of(runner, one, volume, "echo secret > /cache/NuGet.Config")
    assert made.state.is_completed()
    stolen = await run_of(runner, two, volume, "cat /cache/NuGet.Config; touch /cache/x.dll")
    assert stolen.state.name == "Rejected"
    assert f"the cache {volume!r} belongs to repository:127.0.0.1" in stolen.message
    assert "/one/app" in stolen.message
    assert "allowed_caches" in stolen.message
    # The same repository by another spelling.
    again = await run_of(runner, one.removesuffix(".git"), volume, "ls /cache")
    assert again.output == "NuGet.Config\n"
    await policy(allowed_caches=["cache-test-*"])
    assert (await run_of(runner, two, volume, "ls /cache")).output == "NuGet.Config\n"


@docker_engine
async def test_a_cache_that_no_owner_is_known_of_is_nobodys(
    runner: Runner, volume: str, policy: Any
) -> None:
    docker("volume", "create", "--label", BEFORE, volume)
    task = shell("true", cacheVolumes=[{"name": volume, "target": "/cache"}])
    refused = await runner(task)
    assert refused.state.name == "Rejected"
    assert f"docker volume rm {volume}" in refused.message
    await policy(allowed_caches=[volume])
    assert (await runner(task)).state.is_completed()


def cached(volume: str, owner: str) -> ContainerSpec:
    spec = compiled(enabled(cacheVolumes=[{"name": volume, "target": "/c"}]))
    mounts = (*spec.mounts[:-1], replace(spec.mounts[-1], owner=owner))
    return replace(spec, mounts=mounts)


class Late(docker_py.APIClient):
    """An engine on which somebody else makes the volume between a look at it and its creation."""

    def create_volume(
        self, name: Any = None, driver: Any = None, driver_opts: Any = None, labels: Any = None
    ) -> Any:
        """Theirs, then ours."""
        theirs = {**labels, "moonmind.cache_owner": "theirs"}
        super().create_volume(name, driver, driver_opts, theirs)
        return super().create_volume(name, driver, driver_opts, labels)


@pytest.fixture
def late() -> Iterator[Late]:
    with closing(Late(version="1.41")) as api:
        yield api


@docker_engine
def test_of_two_who_make_a_cache_at_once_one_is_refused(late: Late, volume: str) -> None:
    with pytest.raises(Rejected, match="belongs to theirs, and this run is of ours"):
        create_volumes(late, cached(volume, "ours"), (1, 41), [])
    assert create_volumes(late, cached(volume, "theirs"), (1, 41), []) == []


@docker_engine
def test_a_glob_with_a_wildcard_covers_no_volume_of_a_compose_project(
    late: Late, volume: str
) -> None:
    docker("volume", "create", "--label", "com.docker.compose.project=stack", volume)
    with pytest.raises(Rejected, match="is of the compose project stack"):
        create_volumes(late, cached(volume, "ours"), (1, 41), ["*"])
    assert create_volumes(late, cached(volume, "ours"), (1, 41), [volume]) == []


@pytest.mark.parametrize("name", [VOLUME.source, "mm-task-9-1-workspace"])
def test_the_volume_of_the_job_folders_is_no_cache_whatever_the_policy_allows(name: str) -> None:
    policy = Policy(allowed_volumes=["*"], allowed_caches=["*"])
    spec = compiled(enabled(), mount=VOLUME)
    spec = replace(spec, mounts=(*spec.mounts, Mount("cache", name, "/c", owner="*")))
    with pytest.raises(PolicyRefused, match="outside what the container policy allows"):
        guarded(spec, policy)
    if name == VOLUME.source:
        raw = enabled(cacheVolumes=[{"name": "aa", "target": "/a"}, {"name": name, "target": "/c"}])
        with pytest.raises(PolicyRefused) as refusal:
            compiled(raw, mount=VOLUME, policy=policy)
        (fault,) = refusal.value.faults
        assert fault.path == "task.container.cacheVolumes[1].name"
        assert "holds the job folders" in fault.message
