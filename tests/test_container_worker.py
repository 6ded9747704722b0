"""The worker that runs flows in its own process: what it takes, what it leaves, how it ends."""

from collections.abc import Iterator

import pytest

from flows.worker.worker import ContainerTaskWorker
from scripts.stack import Stack
from tests.runs import left_on_engine, payload, shell, until
from tests.weather import ENDLESS, Weather

pytestmark = [pytest.mark.docker, pytest.mark.server]

HOST = "host-of-a-test"
SMALL = {
    "MOONMIND_WORKER_MEMORY": "1000m",
    "MOONMIND_WORKER_CPUS": "1.5",
    "MOONMIND_WORKER_NAME": HOST,
}


@pytest.fixture(scope="module")
def small(stack: Stack) -> Iterator[Weather]:
    """A pool whose one worker has a host of 1000 MiB, and can do nothing special."""
    yield Weather.over_pool(stack, "small", "container-task", SMALL)
    stack.stop("small")


def tags(weather: Weather, run_id: str) -> list[str]:
    return list(weather.stack.flow_run(run_id)["tags"])


def test_a_worker_with_a_wrong_setting_ends_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOONMIND_WORKER_MEMORY", "lots")
    with pytest.raises(SystemExit, match="MOONMIND_WORKER_MEMORY is 'lots' on this worker"):
        ContainerTaskWorker(work_pool_name="any")


def test_a_worker_that_is_told_to_stop_hands_its_runs_over_and_the_next_one_adopts_them(
    weather: Weather,
) -> None:
    run_id = weather.submit_and_see(shell(ENDLESS), "line 3\n")
    weather.stack.stop("worker")
    assert weather.stack.flow_run(run_id)["state_name"] == "AwaitingRetry"
    assert len(left_on_engine(run_id)) == 1, "its container runs on"
    weather.stack.start_worker()
    until(lambda: "Adopting" in weather.journal(run_id), what="the adoption")
    weather.let_end(run_id)
    assert weather.end(run_id)["state_type"] == "COMPLETED"
    weather.assert_counted(run_id)
    weather.assert_told_once(run_id)


def test_a_worker_that_is_killed_leaves_runs_that_the_next_one_adopts_when_it_starts(
    weather: Weather,
) -> None:
    runs = [weather.submit_and_see(shell(ENDLESS), "line 1\n") for _ in range(3)]
    weather.kill_worker()
    weather.stack.start_worker()
    for run_id in runs:
        until(lambda: "Adopting" in weather.journal(run_id), what="the adoption")  # noqa: B023
        weather.let_end(run_id)
    for run_id in runs:
        assert weather.end(run_id)["state_type"] == "COMPLETED"
        assert weather.run_json(run_id)["attempt"] == 1
        weather.assert_counted(run_id)
        weather.assert_told_once(run_id)


def test_two_tasks_of_most_of_the_memory_run_one_after_the_other_and_small_ones_pass_by(
    small: Weather,
) -> None:
    large = {"resources": {"memory": "600m"}}
    first = small.submit_and_see(shell(ENDLESS, **large), "line 1\n")
    second = small.submit(shell(ENDLESS, **large))
    until(lambda: tags(small, second)[1:], what="a word on what it waits for")
    assert f"waiting for 600 MiB on {HOST}" in tags(small, second)
    passing = [
        small.submit(shell("true", resources={"memory": "100m"})),
        small.submit(shell("true")),
    ]
    for run_id in passing:
        assert small.end(run_id)["state_type"] == "COMPLETED"
    assert small.stack.flow_run(second)["state_type"] == "SCHEDULED"
    small.let_end(first)
    until(lambda: "line 1\n" in small.output(second), what="the second to run")
    assert tags(small, second) == ["container-task"]
    small.let_end(second)
    assert [small.end(run_id)["state_type"] for run_id in (first, second)] == ["COMPLETED"] * 2


def test_a_task_that_can_never_fit_is_rejected_with_the_figures(small: Weather) -> None:
    run_id = small.submit(shell("true", resources={"memory": "2g", "cpus": 4}))
    flow_run = small.end(run_id)
    assert flow_run["state_name"] == "Rejected"
    assert flow_run["state"]["message"] == (
        f"task.container.resources asks for 4 CPUs and 2 GiB, and {HOST} has 1.5 CPUs and "
        "1000 MiB for tasks: ask for less, or send the task to a larger host's queue"
    )
    assert small.events(run_id) == {}


def test_a_task_waits_for_a_worker_with_its_capabilities_and_holds_nobody_up(
    small: Weather,
) -> None:
    special = small.submit(shell("true") | {"requiredCapabilities": ["gpu", "docker"]})
    until(lambda: tags(small, special)[1:], what="a word on what it waits for")
    assert "waiting for a worker with the capability gpu" in tags(small, special)
    assert small.end(small.submit(shell("true")))["state_type"] == "COMPLETED"
    assert small.stack.flow_run(special)["state_type"] == "SCHEDULED"
    settings = {"MOONMIND_WORKER_CAPABILITIES": "docker,git,gpu"}
    small.stack.stop("small")
    small.stack.start_worker("small", settings=settings)
    assert small.end(special)["state_type"] == "COMPLETED"


def test_a_flow_of_somebody_else_is_rejected(stack: Stack, weather: Weather) -> None:
    theirs = stack.api("GET", "/deployments/name/reap-orphans/docker").json()
    stack.register(
        flow_id=theirs["flow_id"],
        name="theirs",
        entrypoint="os.path.join",
        work_pool_name=theirs["work_pool_name"],
    )
    run_id = stack.submit_to("reap-orphans/theirs")
    flow_run = stack.await_final(run_id)
    assert flow_run["state_name"] == "Rejected"
    assert "runs os.path.join" in flow_run["state"]["message"]
    assert "send it to a pool of the type process" in flow_run["state"]["message"]


def test_a_task_that_is_due_later_waits_for_its_time(weather: Weather) -> None:
    run_id = weather.submit(payload("true"), seconds=4)
    flow_run = weather.end(run_id)
    assert flow_run["state_type"] == "COMPLETED"
    assert flow_run["start_time"] >= flow_run["expected_start_time"]


@pytest.mark.thorough
def test_two_workers_of_a_pool_share_its_tasks_and_run_each_once(
    stack: Stack, small: Weather
) -> None:
    # Under another name, on the same host: which of the two takes a run is decided by the server.
    stack.start_worker("small", settings={"MOONMIND_WORKER_NAME": "another"}, process="small-2")
    try:
        runs = [small.submit(shell("echo once")) for _ in range(10)]
        for run_id in runs:
            assert small.end(run_id)["state_type"] == "COMPLETED"
            small.assert_told_once(run_id)
            assert small.output(run_id) == "once\n"
    finally:
        stack.stop("small-2")


@pytest.mark.thorough
def test_a_worker_that_is_told_to_stop_gives_back_what_it_has_not_begun(small: Weather) -> None:
    stack = small.stack
    stack.stop("small")
    runs = [small.submit(shell("true")) for _ in range(20)]
    stack.start_worker("small", settings=SMALL)
    until(lambda: any(each["type"] == "PENDING" for each in states(stack, runs[0])))
    # `stop` kills one that takes longer, on a busy machine, than its half a minute.
    worker = stack.process("small")
    worker.terminate()
    worker.wait(180)
    stack.forget("small")
    left = {run_id: stack.flow_run(run_id)["state_type"] for run_id in runs}
    assert set(left.values()) <= {"SCHEDULED", "COMPLETED"}, left
    stack.start_worker("small", settings=SMALL)
    for run_id in runs:
        assert small.end(run_id)["state_type"] == "COMPLETED"
        small.assert_told_once(run_id)
        assert not any(each["type"] == "CRASHED" for each in states(stack, run_id))


def states(stack: Stack, run_id: str) -> list[dict[str, object]]:
    """All that a run ever had."""
    answer = stack.api("GET", f"/flow_run_states/?flow_run_id={run_id}")
    answer.raise_for_status()
    return list(answer.json())
