"""Which waiting tasks may start: in order, within what the host has, none passed by for ever."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.units import Resources
from flows.worker.admission import PATIENCE_SECONDS, Admission, Decision, QueuedTask, admit

GIB = 1024**3
HOST = Resources(4, 10 * GIB)
NOTHING = Resources()
MANY = 1000


def task(memory: float = 0, cpus: float = 0, **more: object) -> QueuedTask:
    return QueuedTask(uuid4(), Resources(cpus, int(memory * GIB)), **more)  # type: ignore[arg-type]


def started(*tasks: QueuedTask, used: Resources = NOTHING, slots: int = MANY) -> list[int]:
    """The positions of those that may start."""
    admitted = admit(tasks, HOST, used, "host-1", slots)
    return [position for position, task in enumerate(tasks) if starts(admitted.get(task.id))]


def starts(admission: Admission | None) -> bool:
    return admission is not None and admission.decision is Decision.START


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        ([task(6), task(6), task(1)], [0, 2]),
        ([task(), task(), task()], [0, 1, 2]),
        ([task(cpus=3), task(cpus=2), task(cpus=1)], [0, 2]),
        ([task(10), task()], [0, 1]),
        ([task(5, 2), task(5, 2), task(0, 0.1)], [0, 1]),
    ],
    ids=["small passes large", "nothing declared", "processors", "all of it", "exactly full"],
)
def test_tasks_start_in_order_as_far_as_they_fit(
    waiting: list[QueuedTask], expected: list[int]
) -> None:
    assert started(*waiting) == expected


def test_room_is_kept_for_a_task_that_has_waited_for_long() -> None:
    used = Resources(0, 6 * GIB)
    large = task(6, waited_seconds=PATIENCE_SECONDS)
    assert started(large, task(1), task(), used=used) == [2], "what declares nothing takes nothing"
    assert started(task(6), task(1), used=used) == [1]
    assert started(large, task(1), used=Resources()) == [0, 1]


def test_no_more_start_than_there_are_slots() -> None:
    assert started(task(), task(6), task(), slots=2) == [0, 1]


def test_a_task_whose_container_runs_already_goes_on_before_all_others() -> None:
    used = Resources(4, 10 * GIB)
    assert started(task(1), task(6, runs_here=True), used=used) == [1]
    assert started(task(1), task(6, runs_here=True), slots=1) == [1]


def test_what_a_task_waits_for_is_said() -> None:
    large, gpu, elsewhere = task(6), task(missing=("gpu", "tpu")), task(other_host="host-2")
    huge = task(12, 8)
    admitted = admit([large, gpu, elsewhere, huge], HOST, Resources(0, 6 * GIB), "host-1", MANY)
    told = {run_id: (each.decision, each.sentence) for run_id, each in admitted.items()}
    assert told == {
        large.id: (Decision.WAIT, "waiting for 6 GiB on host-1"),
        gpu.id: (Decision.WAIT, "waiting for a worker with the capability gpu, tpu"),
        elsewhere.id: (
            Decision.WAIT,
            "waiting for host-2, where its container may still run",
        ),
        huge.id: (
            Decision.REJECT,
            "task.container.resources asks for 8 CPUs and 12 GiB, and host-1 has 4 CPUs and "
            "10 GiB for tasks: ask for less, or send the task to a larger host's queue",
        ),
    }


AMOUNTS = st.builds(
    Resources,
    st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 5.0]),
    st.integers(0, 12).map(lambda number: number * GIB),
)


@given(st.lists(AMOUNTS, max_size=12), AMOUNTS, st.integers(1, 12))
def test_what_starts_always_fits_together_and_everything_is_decided(
    needs: list[Resources], used: Resources, slots: int
) -> None:
    tasks = [QueuedTask(UUID(int=number), each) for number, each in enumerate(needs)]
    admitted = admit(tasks, HOST, used, "host-1", slots)
    running = [task.needs for task in tasks if starts(admitted.get(task.id))]
    total = sum(running, used)
    if HOST.lacks(used) == Resources():
        assert total.cpus <= HOST.cpus + 1e-6
        assert total.memory_bytes <= HOST.memory_bytes
    assert len(running) <= slots
    assert len(admitted) == len(tasks) or len(running) == slots
