"""Test your own payloads with pytest: the whole flow, with or without Docker.

In a `conftest.py`, `pytest_plugins = ["flows.testing"]` gives every test the fixture
`container_task_run`. No entry point does it unasked: the plugin imports Prefect, which would cost
each pytest run of an environment with this package a second or two, whatever it tests. (For
pytest, as a `conftest.py` may import this first: PYTEST_DONT_REWRITE.)

    def test_the_report_is_kept(container_task_run):
        def dotnet_test(process):
            (process.artifacts / "report.html").write_text("3 passed")
            process.print("Passed!")

        result = container_task_run(payload, FakeEngine(dotnet_test))
        result.assert_outcome("succeeded")
        result.assert_file("report.html", contains="3 passed")
"""

from flows.testing.fake_container import CommandMissing, Process, Program, Terminated
from flows.testing.fake_engine import FakeEngine
from flows.testing.fixtures import (
    ContainerTaskRun,
    TaskResult,
    container_task_api,
    container_task_run,
)

__all__ = [
    "CommandMissing",
    "ContainerTaskRun",
    "FakeEngine",
    "Process",
    "Program",
    "TaskResult",
    "Terminated",
    "container_task_api",
    "container_task_run",
]
