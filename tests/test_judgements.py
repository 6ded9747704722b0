"""What a worker knows of the runs that wait in its queues."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import AwaitingRetry, Running, Scheduled

from flows.runtime.history import HANDED_OVER
from flows.runtime.run_states import HOST_LABEL
from flows.settings import HostSettings
from flows.units import Resources
from flows.worker.admission import QueuedTask
from flows.worker.judgements import Judgements
from flows.worker.queue import ServerClock
from tests.runs import shell

# Of runs that never ran, nobody asks the server anything.
NO_SERVER = cast(PrefectClient, None)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def host(tmp_path: Path) -> HostSettings:
    return HostSettings(MOONMIND_WORKDIR=tmp_path, MOONMIND_WORKER_NAME="host-1")


def waiting(payload: object = None, **fields: Any) -> FlowRun:
    """As the API tells of a run that waits."""
    parameters = {"payload": payload or shell("true")}
    some = {"id": uuid4(), "flow_id": uuid4(), "state_id": uuid4(), "parameters": parameters}
    return FlowRun.model_validate(some | fields)


async def judged(known: Judgements, *runs: FlowRun) -> list[QueuedTask]:
    return await known.tasks(NO_SERVER, runs)


async def test_runs_are_judged_in_the_order_of_the_server(host: HostSettings) -> None:
    runs = [waiting() for _ in range(5)]
    assert [task.id for task in await judged(Judgements(host), *runs)] == [run.id for run in runs]


@pytest.mark.parametrize("payload", ["nonsense", {"task": {"container": {"resources": 4}}}])
async def test_a_payload_that_the_flow_will_refuse_asks_for_nothing(
    host: HostSettings, payload: object
) -> None:
    (task,) = await judged(Judgements(host), waiting(payload))
    assert not task.needs
    assert not task.missing


async def test_what_a_payload_asks_for_is_counted(host: HostSettings) -> None:
    run = waiting(shell("true", resources={"cpus": 1.5, "memory": "1g"}))
    (task,) = await judged(Judgements(host), run)
    assert str(task.needs) == "1.5 CPUs and 1 GiB"


async def test_a_run_that_is_called_late_waits_on_and_one_that_ran_waits_anew(
    host: HostSettings,
) -> None:
    clock, run = Clock(), waiting()
    known = Judgements(host, clock)
    await judged(known, run)
    clock.now = 50
    late = run.model_copy(update={"state_id": uuid4()})
    (task,) = await judged(known, late)
    assert task.waited_seconds == 50
    (task,) = await judged(known, late.model_copy(update={"state_id": uuid4(), "run_count": 1}))
    assert task.waited_seconds == 0


async def test_what_was_said_is_said_once(host: HostSettings) -> None:
    known, run = Judgements(host), waiting()
    await judged(known, run)
    sentences = ["waiting for 1 GiB", "waiting for 1 GiB", "waiting for 2 CPUs"]
    assert [known.tells(run.id, each) for each in sentences] == [True, False, True]
    assert known.waiting == 1
    assert [known.take(run.id) for _ in range(2)] == [True, False]
    assert known.waiting == 0


async def test_a_refused_run_is_left_alone_for_ever_longer(host: HostSettings) -> None:
    clock, run, pauses = Clock(), waiting(), []
    known = Judgements(host, clock)
    await judged(known, run)
    for _ in range(8):
        known.refused(run.id)
        since = clock.now
        while not await judged(known, run):
            clock.now += 1
        pauses.append(clock.now - since)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


async def test_one_that_waits_behind_the_others_is_known_to_fit(host: HostSettings) -> None:
    clock = Clock()
    known = Judgements(host, clock)
    small, large = (waiting(shell("true", resources={"cpus": cpus})) for cpus in (1, 3))
    await judged(known, small, large)
    for run in (small, large):
        known.tells(run.id, "waiting for CPUs")
    assert known.may_fit(Resources(2), {large.id})
    assert not known.may_fit(Resources(2), {small.id})
    clock.now = 60
    assert not known.may_fit(Resources(2), {large.id}), "it may be gone by now"


async def test_attempts_that_cannot_be_read_are_the_flows_to_tell_about(
    host: HostSettings,
) -> None:
    run = waiting(run_count=1)
    runs = host.workdir / ".runs"
    runs.mkdir()
    (runs / f"{run.id}.json").write_text("not JSON")
    (task,) = await judged(Judgements(host), run)
    assert not task.runs_here


@pytest.mark.parametrize(
    ("told", "ahead"), [(0, 0), (-4, 0), (2, 2), (60, 60), (-60, -55)], ids=str
)
def test_the_servers_clock_counts_where_it_cannot_be_ones_own(told: int, ahead: int) -> None:
    """`told` are the whole seconds by which its answer's `Date` is ahead."""
    clock, now = ServerClock(), datetime.now(UTC).replace(microsecond=0)
    clock.hear(format_datetime(now + timedelta(seconds=told)), now, now)
    assert (clock.now() - datetime.now(UTC)).total_seconds() == pytest.approx(ahead, abs=0.1)


async def test_what_may_still_be_on_another_host_is_left_to_it_however_long_it_waits(
    host: HostSettings,
) -> None:
    clock = Clock()
    known = Judgements(host, clock)
    run = waiting(labels={HOST_LABEL: "host-2"}, run_count=1)
    history: list[State[Any]] = [Scheduled(), Running(), AwaitingRetry(message=HANDED_OVER)]
    server = cast(PrefectClient, _History(history))
    for clock.now in (0, 2 * host.patience_seconds):
        (task,) = await known.tasks(server, [run])
        assert task.other_host == "host-2"


class _History:
    """A server that knows the states of one run."""

    def __init__(self, states: list[State[Any]]) -> None:
        self._states = states

    async def read_flow_run_states(self, run_id: object) -> list[State[Any]]:
        return self._states
