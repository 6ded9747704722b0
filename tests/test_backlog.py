"""What a worker knows of the runs in its queues."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from flows.settings import HostSettings
from flows.worker.queue import Backlog
from flows.worker.takeover import HOST_LABEL
from tests.runs import shell


@pytest.fixture
def host(tmp_path: Path) -> HostSettings:
    return HostSettings(MOONMIND_WORKDIR=tmp_path, MOONMIND_WORKER_NAME="host-1")


def due(payload: object = None, seconds: float = -1, **fields: Any) -> FlowRun:
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
    backlog, runs = Backlog(host), [due() for _ in range(5)]
    backlog.replace(runs)
    assert [each.id for each in backlog.waiting()] == [run.id for run in runs]


def test_a_run_that_the_server_gives_to_nobody_any_more_is_forgotten(host: HostSettings) -> None:
    backlog, runs = Backlog(host), [due(), due()]
    backlog.replace(runs)
    backlog.tell(runs[1].id, "waiting for 4 GiB on host-1")
    backlog.replace(runs[1:])
    assert [each.id for each in backlog.waiting()] == [runs[1].id]
    assert backlog.is_told(runs[1].id), "what its user was told is still known"
    assert backlog.unjudged == 0


def test_a_run_that_is_due_later_does_not_wait_yet(host: HostSettings) -> None:
    backlog = Backlog(host)
    backlog.replace([due(seconds=50)])
    assert backlog.waiting() == []
    assert backlog.seconds_to_next() == pytest.approx(50, abs=5)


@pytest.mark.parametrize("payload", ["nonsense", {"task": {"container": {"resources": 4}}}])
def test_a_payload_that_the_flow_will_refuse_asks_for_nothing(
    host: HostSettings, payload: object
) -> None:
    backlog = Backlog(host)
    backlog.replace([due(payload)])
    (waiting,) = backlog.waiting()
    assert not waiting.needs
    assert not waiting.missing


def test_what_a_payload_asks_for_is_counted(host: HostSettings) -> None:
    backlog = Backlog(host)
    backlog.replace([due(shell("true", resources={"cpus": 1.5, "memory": "1g"}))])
    (waiting,) = backlog.waiting()
    assert str(waiting.needs) == "1.5 CPUs and 1 GiB"


@pytest.mark.parametrize("label", ["host-1", "host-2"])
def test_a_run_that_began_on_another_host_is_left_to_it(host: HostSettings, label: str) -> None:
    backlog = Backlog(host)
    backlog.replace([due(run_count=1, labels={HOST_LABEL: label})])
    (waiting,) = backlog.waiting()
    assert waiting.elsewhere == (None if label == "host-1" else label)


def test_attempts_that_cannot_be_read_are_the_flows_to_tell_about(
    host: HostSettings,
) -> None:
    backlog, run = Backlog(host), due(run_count=1)
    runs = host.workdir / ".runs"
    runs.mkdir()
    (runs / f"{run.id}.json").write_text("not JSON")
    backlog.replace([run])
    (waiting,) = backlog.waiting()
    assert not waiting.goes_on
