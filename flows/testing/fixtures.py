"""Pytest fixtures: a Prefect test server, and `container_task_run`, which runs the flow on it."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from prefect.settings import (
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL,
    temporary_settings,
)

from flows.engine.contract import Engine
from flows.testing.fake_engine import FakeEngine
from flows.testing.result import TaskResult
from flows.testing.running import run_task

_SERVER = {
    PREFECT_SERVER_ANALYTICS_ENABLED: False,
    # A test waits for its events; by default they are stored every five seconds.
    PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL: 0.1,
}


class ContainerTaskRun:
    """The fixture `container_task_run`."""

    def __init__(self, workdir: Path, tell: Callable[[str], None]) -> None:
        """`workdir` is the `MOONMIND_WORKDIR`; `tell` gets each run's story."""
        self._workdir = workdir
        self._tell = tell

    def __call__(
        self, payload: object, engine: Engine | Literal["docker"] | None = None
    ) -> TaskResult:
        """Run the whole flow with `payload`, and wait for its end.

        By default each command does nothing and exits 0; a `FakeEngine` with a program of yours
        does what that does, and `"docker"` is the Docker Engine that `DOCKER_HOST` names, with
        real images. What a program raises that is no way to end a container, this raises.
        """
        engine = engine or FakeEngine()
        work = partial(asyncio.run, run_task(payload, engine, self._workdir))
        # In a thread, as the loop of an async test cannot run another one.
        with ThreadPoolExecutor(max_workers=1) as executor:
            result = executor.submit(copy_context().run, work).result()
        self._tell(result.story())
        if isinstance(engine, FakeEngine) and (failures := engine.take_failures()):
            raise failures[0]
        return result


@pytest.fixture(scope="session")
def container_task_api() -> Iterator[None]:
    """A Prefect API with an empty database, for the whole session; it takes some seconds.

    Where your tests have one already, override this fixture with one that depends on yours.
    """
    # It loads Prefect's server, which costs seconds in whichever process imports it.
    from prefect.testing.utilities import prefect_test_harness

    with temporary_settings(_SERVER), prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def container_task_run(
    container_task_api: None,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> ContainerTaskRun:
    """Call it with a payload, and it gives a `TaskResult`; see `ContainerTaskRun.__call__`."""
    workdir = tmp_path / "agent_jobs"
    monkeypatch.setenv("MOONMIND_WORKDIR", str(workdir))
    monkeypatch.delenv("MOONMIND_CONTAINER_WORKSPACE_VOLUME", raising=False)
    return ContainerTaskRun(
        workdir, partial(request.node.add_report_section, "call", "container task")
    )
