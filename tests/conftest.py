"""What tests share: a Docker Engine or a reason to skip, a Prefect API, a folder for jobs."""

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from playwright.async_api import Page
from prefect.logging import disable_run_logger

from scripts.browser import chromium, opened_page
from scripts.postgres import Postgres
from scripts.stack import Stack, free_port
from tests.command import Here, server_at
from tests.host_mistakes import Told
from tests.prefect_api import prefect_api_in
from tests.registry import Registry
from tests.runs import Runner
from tests.s3 import Endpoint, endpoint
from tests.weather import Weather

pytest_plugins = ["flows.testing"]

IN_CI = bool(os.environ.get("CI"))

# Without a clock: this machine may be busy. CI tries the same examples each time.
settings.register_profile(
    "busy",
    derandomize=IN_CI,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("busy")


def _docker_answers() -> bool:
    try:
        command = ["docker", "version", "--format", "{{.Server.Version}}"]
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _group(items, _SHARED if config.option.markexpr else _SHARED | {"stack": 2})
    if IN_CI or _docker_answers():
        return
    skip = pytest.mark.skip(reason="no Docker Engine answers: start one, or run scripts/test")
    for item in items:
        if item.get_closest_marker("docker"):
            item.add_marker(skip)


# What takes long to make, and how many processes make it for their tests. Tests that run flows in
# processes of their own mostly wait for them: they have a stack to themselves. What takes minutes
# needs one stack more.
_SHARED = {"processes": 2, "stack": 1, "container_task_api": 2}
# A run in a process of its own loads Prefect twice; a browser loads the whole UI for each page.
_TAKES_MINUTES = {"processes", "page", "sessions"}


def _group(items: list[pytest.Item], shared: Mapping[str, int]) -> None:
    """Give each file to one process, but for its tests on what is shared; these come first."""
    on = {item: next(filter(_asks_for(item).__contains__, _SHARED), "") for item in items}
    share = _spread(Counter((on[item], item.path.stem) for item in items if on[item]), shared)

    def rank(item: pytest.Item) -> tuple[bool, bool]:
        return not on[item], item.get_closest_marker("server") is None

    items.sort(key=rank)
    for item in items:
        file = item.path.stem
        group = f"{on[item]}-{share[on[item], file]}" if on[item] else file
        item.add_marker(pytest.mark.xdist_group(group))
        if _TAKES_MINUTES & _asks_for(item):
            item.add_marker(pytest.mark.thorough)


def _spread(
    sizes: Counter[tuple[str, str]], shared_by: Mapping[str, int]
) -> dict[tuple[str, str], int]:
    """For each file on something shared the number of a process: as many tests for each."""
    filled: Counter[tuple[str, int]] = Counter()
    numbers = {}
    for (shared, file), size in sorted(sizes.items(), key=lambda each: (-each[1], each[0])):
        number = min(range(shared_by[shared]), key=lambda each: filled[shared, each])
        filled[shared, number] += size
        numbers[shared, file] = number
    return numbers


def _asks_for(item: pytest.Item) -> set[str]:
    """Its fixtures; a parameter is none, and may name one."""
    callspec = getattr(item, "callspec", None)
    parameters = callspec.params if callspec else {}
    named = {each for each in parameters.values() if isinstance(each, str)}
    return {*getattr(item, "fixturenames", ())} - parameters.keys() | named


@pytest.fixture(scope="session", autouse=True)
def jobs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`MOONMIND_WORKDIR` of this test process."""
    folder = tmp_path_factory.mktemp("agent_jobs")
    os.environ["MOONMIND_WORKDIR"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def container_task_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In the place of the package's own, whose start costs more; tests/test_wheel.py has that."""
    with prefect_api_in(tmp_path_factory.mktemp("prefect-api")):
        yield


@pytest.fixture(scope="session")
def prefect_api(container_task_api: None) -> None:
    """A Prefect API with an empty database, for flows run in this process."""


@pytest.fixture
def runner(prefect_api: None, jobs_folder: Path) -> Runner:
    """Runs the flow in this process and finds what it left."""
    return Runner(jobs_folder)


def _started_registry(folder: Path, *, login: bool) -> Iterator[Registry]:
    if shutil.which("docker-registry") is None:
        if IN_CI:
            pytest.fail("docker-registry is not installed")
        pytest.skip("docker-registry is not installed: install it, or run scripts/test")
    with Registry(folder, login=login) as registry:
        yield registry
        registry.forget()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry on loopback that anybody may read."""
    yield from _started_registry(tmp_path_factory.mktemp("registry"), login=False)


@pytest.fixture(scope="session")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry on loopback for those who have its password."""
    yield from _started_registry(tmp_path_factory.mktemp("private-registry"), login=True)


@pytest.fixture
async def outside_a_run() -> AsyncIterator[None]:
    """prefect-docker's functions log to the run they are in; there is none."""
    with disable_run_logger():
        yield


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One server with our worker and deployments, for every test that asks for one."""
    # SQLite serves one run at a time well, and no more.
    with Postgres() as database:
        settings = {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url,
            # Tests ask for what a run emitted as soon as it is over; by default it is five seconds.
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.2",
        }
        with Stack(tmp_path_factory.mktemp("stack"), free_port(), settings) as stack:
            stack.start()
            yield stack


@pytest.fixture(scope="session")
def weather(stack: Stack) -> Weather:
    """The stack, and runs in the worker's own process."""
    return Weather(stack)


@pytest.fixture(scope="session")
def processes(stack: Stack) -> Weather:
    """The stack, and runs in processes of their own, on a pool of Prefect's type `process`."""
    return Weather.over_pool(stack, "processes", "process")


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Iterator[Here]:
    """The command `container-task`, where no server is."""
    with server_at(None):
        yield Here(capsys)


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes a payload to a file; its name."""

    def write(raw: object, name: str = "payload.json") -> str:
        (tmp_path / name).write_text(json.dumps(raw))
        return str(tmp_path / name)

    return write


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A page of a headless Chromium."""
    program = chromium()
    if program is None:
        if IN_CI:
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed: install it, or run scripts/test")
    async with opened_page(program) as page:
        yield page


@pytest.fixture(scope="session")
def s3() -> Iterator[Endpoint]:
    """An S3 endpoint, of which each test has its own job's keys."""
    with endpoint() as running:
        yield running


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Iterator[Told]:
    """For tests that are marked with `tells`: they fail where they hold no finding to it."""
    mistake = Told(request.param)
    yield mistake
    assert mistake.is_held, "the test holds no finding to its mistake"
