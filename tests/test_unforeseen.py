"""What nobody foresaw, such as a host without descriptors, is no end of a run before it is told."""

import errno
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from flows.container_task import container_task
from flows.engine.types import Image
from flows.outcome import FailureClass
from flows.runtime.context import Dependencies
from flows.runtime.store import AttemptStore
from flows.spec import ContainerSpec
from flows.testing import FakeEngine
from flows.workspace.folder import Workspace
from tests.behaviours import behave
from tests.runs import Finished, payload
from tests.test_flow import artifacts_of


class Short(FakeEngine):
    """An engine whose process lacks a descriptor at the first `times` of one call."""

    def __init__(self, at: str, times: int) -> None:
        super().__init__(behave)
        self.at, self.left = at, times

    def _lack(self, call: str) -> None:
        if call == self.at and self.left:
            self.left -= 1
            raise OSError(errno.EMFILE, "Too many open files")

    async def create(self, spec: ContainerSpec, image: Image, secrets: Any) -> None:
        self._lack("create")
        await super().create(spec, image, secrets)

    async def wait(self, spec: ContainerSpec, seconds: float) -> bool:
        self._lack("wait")
        return await super().wait(spec, seconds)


Run = Callable[..., Any]
LIMITED = """
import logging, resource, sys
from flows.worker.services import allow_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[1])))
allow_descriptors(logging.getLogger())
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.fixture
def runs(jobs_folder: Path, prefect_api: None, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("flows.runtime.unforeseen.infrastructure_pause", lambda _: 0.0)

    async def run(engine: FakeEngine, sleeps: str = "0.1") -> tuple[Finished, AttemptStore]:
        flow = container_task.bind(Dependencies(lambda _: nullcontext(engine)))
        state = await flow(payload("sleep", sleeps, workdir="/bin"), return_state=True)
        job_id = str(state.state_details.flow_run_id)
        return Finished(state, jobs_folder / job_id), AttemptStore(jobs_folder, job_id)

    return run


@pytest.mark.parametrize(("step", "attempts"), [("wait", 1), ("create", 2)])
async def test_a_run_that_lacks_a_descriptor_for_a_moment_goes_on_with_its_container_if_it_has_one(
    runs: Run, step: str, attempts: int
) -> None:
    engine = Short(step, times=1)
    done, store = await runs(engine)
    assert (done.state.name, engine.left) == ("Completed", 0)
    assert len(store.attempts()) == attempts
    assert engine.calls.count("create") == 1
    assert engine.containers == {}


async def test_a_run_that_lacks_descriptors_for_long_ends_as_infrastructure_with_a_report(
    runs: Run,
) -> None:
    engine = Short("wait", times=1000)
    done, store = await runs(engine, "60")
    assert done.state.name == "InfrastructureError"
    assert "Too many open files" in done.message
    (attempt,) = store.attempts()
    assert (attempt.outcome.failure_class, attempt.published) == (FailureClass.HOST, True)
    facts = done.run_json
    assert (facts["failureClass"], facts["exitCode"]) == ("host", 143)
    assert "Too many open files" in (await artifacts_of(done))["container-run"]
    assert engine.containers == {}


@pytest.mark.parametrize(("times", "name"), [(2, "Completed"), (1000, "InfrastructureError")])
async def test_a_preparation_that_fails_as_nobody_foresaw_is_begun_again(
    runs: Run, times: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, failed = Workspace.create, list[str]()

    def lacks(workspace: Workspace, *words: Any) -> None:
        if len(failed) < times:
            failed.append("once more")
            raise OSError(errno.EMFILE, "Too many open files")
        create(workspace, *words)

    monkeypatch.setattr(Workspace, "create", lacks)
    done, _ = await runs(FakeEngine(behave))
    assert done.state.name == name
    if name != "Completed":
        assert "Too many open files" in (await artifacts_of(done))["container-run"]


@pytest.mark.parametrize("hard", [64, 512])
def test_a_worker_may_open_as_many_files_as_its_hosts_hard_limit_says(hard: int) -> None:
    command = [sys.executable, "-c", LIMITED, str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == hard
