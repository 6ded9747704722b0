"""What a worker knows of the runs in its queues."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from flows.runtime.run_states import HOST_LABEL
from flows.settings import HostSettings
from flows.worker.queue import RunQueue
from tests.runs import shell


@pytest.fixture
def host(tmp_path: Path) -> HostSettings:
    return HostSettings(MOONMIND_WORKDIR=tmp_path, MOONMIND_WORKER_NAME="host-1")


def scheduled(payload: object = None, seconds: float = -1, **fields: Any) -> FlowRun:
    """As the API tells of a run that is due in `seconds`."""
    due_at = datetime.now(UTC) + timedelta(seconds=seconds)
    return FlowRun.model_validate(
        {
            "id": uuid4(),
            "flow_id": uuid4(),
            "parameters": {"payload": payload or shell("true")},
            "next_scheduled_start_time": due_at,
            **fields,
        }
    )


def test_runs_wait_in_the_order_of_the_server(host: HostSettings) -> None:
    queue, runs = RunQueue(host), [scheduled() for _ in range(5)]
    queue.replace(runs)
    assert [each.id for each in queue.due()] == [run.id for run in runs]


def test_a_run_that_the_server_gives_to_nobody_any_more_is_forgotten(host: HostSettings) -> None:
    queue, runs = RunQueue(host), [scheduled(), scheduled()]
    queue.replace(runs)
    assert queue.block(runs[1].id) == runs[1]
    queue.replace(runs[1:])
    assert [each.id for each in queue.due()] == [runs[1].id]
    assert queue.block(runs[1].id) is None, "what its user was told is still known"
    assert queue.startable == 0


def test_a_run_that_is_due_later_does_not_wait_yet(host: HostSettings) -> None:
    queue = RunQueue(host)
    queue.replace([scheduled(seconds=50)])
    assert queue.due() == []
    assert queue.seconds_to_next() == pytest.approx(50, abs=5)


@pytest.mark.parametrize("payload", ["nonsense", {"task": {"container": {"resources": 4}}}])
def test_a_payload_that_the_flow_will_refuse_asks_for_nothing(
    host: HostSettings, payload: object
) -> None:
    queue = RunQueue(host)
    queue.replace([scheduled(payload)])
    (task,) = queue.due()
    assert not task.needs
    assert not task.missing


def test_what_a_payload_asks_for_is_counted(host: HostSettings) -> None:
    queue = RunQueue(host)
    queue.replace([scheduled(shell("true", resources={"cpus": 1.5, "memory": "1g"}))])
    (task,) = queue.due()
    assert str(task.needs) == "1.5 CPUs and 1 GiB"


@pytest.mark.parametrize("label", ["host-1", "host-2"])
def test_a_run_that_began_on_another_host_is_left_to_it_for_a_while(
    host: HostSettings, label: str
) -> None:
    clock = [0.0]
    queue = RunQueue(host, lambda: clock[0])
    queue.replace([scheduled(run_count=1, labels={HOST_LABEL: label})])
    (task,) = queue.due()
    assert task.other_host == (None if label == "host-1" else label)
    clock[0] = host.patience_seconds
    (task,) = queue.due()
    assert (task.other_host, task.waited_seconds) == (None, host.patience_seconds)


def test_attempts_that_cannot_be_read_are_the_flows_to_tell_about(
    host: HostSettings,
) -> None:
    queue, run = RunQueue(host), scheduled(run_count=1)
    runs = host.workdir / ".runs"
    runs.mkdir()
    (runs / f"{run.id}.json").write_text("not JSON")
    queue.replace([run])
    (task,) = queue.due()
    assert not task.runs_here
