"""The container's output on its two ways, and the journal of the stages."""

import logging
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest

from flows.workspace.folder import Workspace
from flows.workspace.logs import Journal, LiveOutput, RunnerLog
from tests.hosts import disk

LOGGER = logging.getLogger("tests.journal")
LIVE_BYTES = 4 * 1024**2
RECORD_BYTES = 32 * 1024


def made(root: Path) -> Workspace:
    """A job's folder; the one attempt's artifacts go to `container`."""
    job = Workspace(root, "7f1e")
    job.folder.mkdir(parents=True)
    return job


@pytest.fixture
def job(tmp_path: Path) -> Workspace:
    return made(tmp_path / "jobs")


@pytest.fixture
def path(job: Workspace) -> Path:
    """Where the output is from the container's end on."""
    return job.runner_log("container")


@pytest.fixture
def live(job: Workspace) -> Path:
    """Where the output is while the container runs."""
    return job.root / ".runs" / "7f1e.runner.log"


@pytest.fixture
def small_job(tmp_path: Path) -> Iterator[Workspace]:
    """On a file system of 256 KiB."""
    with disk(tmp_path, "256k") as folder:
        yield made(folder)


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([b"one\n", b"two\n"], "one\ntwo"),
        ([b"no newline at the end"], "no newline at the end"),
        ([b"caf\xc3", b"\xa9\n"], "café"),
        ([b"broken \xff\xfe\n"], "broken \ufffd\ufffd"),
        ([b"", b"\n", b"a\n"], "\na"),
    ],
)
def test_output_is_whole_in_the_file_and_readable_in_prefect(
    job: Workspace, path: Path, chunks: list[bytes], text: str
) -> None:
    told: list[str] = []
    with RunnerLog(job, "container", told.append) as log:
        for chunk in chunks:
            log.write(chunk)
        facts = log.facts()
    assert path.read_bytes() == b"".join(chunks)
    assert told == [text]
    assert (facts.bytes, facts.dropped_from_ui) == (len(b"".join(chunks)), 0)
    assert facts.error is None
    assert facts.tail.rstrip("\n") == text


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (b"NUL \0 here\n", "NUL \\x00 here"),
        (b"progress 1%\rprogress 2%\r", "progress 2%"),
        (b"\x1b]0;title\x07\x1b[2J\x1b[1mbold\x1b[0m\n", "bold"),
        ("right\u202eto left\n".encode(), "right\\u202eto left"),
    ],
)
def test_output_in_the_workers_own_log_commands_no_terminal(
    job: Workspace, path: Path, output: bytes, text: str
) -> None:
    told: list[str] = []
    with RunnerLog(job, "container", told.append) as log:
        log.write(output)
        log.facts()
    assert path.read_bytes() == output
    assert told == [text]


def test_a_silent_task_is_told_in_no_record(job: Workspace, path: Path) -> None:
    told: list[str] = []
    with RunnerLog(job, "container", told.append) as log:
        facts = log.facts()
    assert told == []
    assert (facts.bytes, facts.tail, path.read_bytes()) == (0, "", b"")


def test_a_flood_is_whole_in_the_file_and_bounded_in_prefect(job: Workspace, path: Path) -> None:
    told: list[str] = []
    line = b"%015d\n"
    with RunnerLog(job, "container", told.append) as log:
        for start in range(0, 2_000_000, 4000):
            log.write(b"".join(line % number for number in range(start, start + 4000)))
        facts = log.facts()
    assert path.stat().st_size == facts.bytes == 32_000_000
    assert told[-1].endswith("\n000000001999998\n000000001999999")
    assert max(map(len, told)) < RECORD_BYTES + 100
    lines_told = [
        line for record in told for line in record.splitlines() if not line.startswith("[")
    ]
    assert facts.dropped_from_ui == pytest.approx(
        32_000_000 - 16 * len(lines_told), abs=32 * len(told)
    )
    assert "runner.log has them]" in told[-1]
    assert facts.tail.startswith("0000000019997")
    assert len(facts.tail) <= 4096


def test_a_task_that_never_stops_printing_is_told_in_bounds_and_then_its_end() -> None:
    told: SimpleQueue[str] = SimpleQueue()
    live_output = LiveOutput(told.put, every_seconds=0.001)
    chunk, told_bytes = b"x" * 15_999 + b"\n", 0
    while told_bytes < LIVE_BYTES:
        live_output.write(chunk)
        told_bytes += len(told.get(timeout=30)) + 1
    for _ in range(1000):
        live_output.write(chunk)
    with pytest.raises(Empty):
        told.get(timeout=0.2)
    live_output.write(b"the end\n")
    live_output.finish()
    last = told.get(timeout=30)
    assert last.endswith("x\nthe end")
    assert len(last) < RECORD_BYTES + 100
    assert told.empty()
    assert live_output.dropped > 1000 * len(chunk) - RECORD_BYTES


def test_output_is_told_while_the_task_runs() -> None:
    told: SimpleQueue[str] = SimpleQueue()
    live_output = LiveOutput(told.put, every_seconds=0.01)
    live_output.write(b"first\n")
    assert told.get(timeout=30) == "first"
    live_output.write(b"a prompt without an end> ")
    assert told.get(timeout=30) == "a prompt without an end> "
    live_output.finish()
    live_output.finish()
    assert told.empty()


def test_a_slow_listener_holds_nobody_up() -> None:
    told: list[str] = []
    listening = threading.Event()

    def slow(record: str) -> None:
        listening.wait(30)
        told.append(record)

    live_output = LiveOutput(slow, every_seconds=0.001)
    for _ in range(1000):
        live_output.write(b"x" * 10_000)
    live_output.write(b"the end")
    listening.set()
    live_output.finish()
    assert told[-1].endswith("xthe end")


def test_a_log_is_out_of_the_containers_reach_until_it_has_stopped(
    job: Workspace, path: Path, live: Path
) -> None:
    with RunnerLog(job, "container", LOGGER.info) as log:
        log.write(b"before\n")
        assert (live.read_bytes(), path.exists()) == (b"before\n", False)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"forged")
        log.write(b"after\n")
        assert log.so_far().tail == "before\nafter\n"
        facts = log.facts()
    assert (path.read_bytes(), live.exists()) == (b"before\nafter\n", False)
    assert (facts.error, facts.bytes, facts.tail) == (None, 13, "before\nafter\n")


def test_a_log_whose_process_is_gone_is_begun_anew_and_not_told_twice(
    job: Workspace, path: Path, live: Path
) -> None:
    with RunnerLog(job, "container", LOGGER.info) as log:
        log.write(b"one\n")
    assert (live.read_bytes(), path.exists()) == (b"one\n", False)
    told: list[str] = []
    with RunnerLog(job, "container", told.append, anew=True) as log:
        log.write(b"one\ntwo\n")
        facts = log.facts()
    assert (path.read_bytes(), told) == (b"one\ntwo\n", ["two"])
    assert (facts.bytes, facts.lines) == (8, 2)


def test_a_log_whose_output_nobody_may_give_again_stays_as_it_is(
    job: Workspace, path: Path
) -> None:
    with RunnerLog(job, "container", LOGGER.info) as log:
        log.write(b"one\n***\n")
    with RunnerLog(job, "container", LOGGER.info) as log:
        facts = log.facts()
    assert path.read_bytes() == b"one\n***\n"
    assert (facts.bytes, facts.lines, facts.error) == (8, 2, None)


@pytest.mark.parametrize("anew", [True, False], ids=["replayed", "kept"])
def test_a_log_that_an_earlier_version_wrote_in_the_jobs_folder_is_gone_on_with(
    job: Workspace, path: Path, *, anew: bool
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"one\n")
    told: list[str] = []
    with RunnerLog(job, "container", told.append, anew=anew) as log:
        if anew:
            log.write(b"one\n")
        path.write_bytes(b"one\n")
        if anew:
            log.write(b"two\n")
        facts = log.facts()
    assert path.read_bytes() == (b"one\ntwo\n" if anew else b"one\n")
    assert (facts.bytes, facts.lines, facts.error) == ((8, 2, None) if anew else (4, 1, None))
    assert told == (["two"] if anew else [])


def test_a_full_disk_is_noted_and_the_output_still_drained(small_job: Workspace) -> None:
    told: list[str] = []
    with RunnerLog(small_job, "container", told.append) as log:
        for _ in range(64):
            log.write(b"x" * 15_999 + b"\n")
        log.write(b"the end\n")
        facts = log.facts()
    assert facts.error == "runner.log is incomplete: No space left on device"
    assert facts.bytes == 64 * 16_000 + 8
    assert 0 < small_job.runner_log("container").stat().st_size <= 256 * 1024
    assert told[-1].endswith("the end")


@pytest.mark.parametrize("size", [10_000, 300_000], ids=["fits", "does not fit"])
def test_a_log_is_copied_to_another_file_system(tmp_path: Path, size: int) -> None:
    with disk(tmp_path, "256k") as folder:
        job = Workspace(tmp_path, folder.name)
        with RunnerLog(job, "container", LOGGER.info) as log:
            log.write(b"x" * size)
            facts = log.facts()
            path, live = job.runner_log("container"), job.root / ".runs" / "disk.runner.log"
            if size > 256 * 1024:
                assert facts.error == "runner.log is incomplete: No space left on device"
                assert (path.exists(), live.stat().st_size) == (False, size)
            else:
                assert (path.stat().st_size, facts.error, live.exists()) == (size, None, False)
        assert list(path.parent.iterdir()) == ([path] if facts.error is None else [])


def test_a_journal_keeps_time_and_tells_prefect(
    job: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER.name)
    sentences = ["Prepared ü", "100% done", "Published"]
    for sentence in sentences:
        with Journal(job, LOGGER) as journal:
            journal.say(sentence)
            assert job.execute_log.exists() is (sentence == "Published")
            if sentence != "Prepared ü":
                journal.move_to_artifacts()
    lines = job.execute_log.read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == sentences
    assert all(datetime.fromisoformat(line.partition(" ")[0]).tzinfo for line in lines)
    assert caplog.messages == sentences


def test_a_journal_is_out_of_the_tasks_reach_until_it_is_over(job: Workspace) -> None:
    with Journal(job, LOGGER) as journal:
        journal.say("Running true")
        job.execute_log.parent.mkdir(parents=True, exist_ok=True)
        job.execute_log.write_text("evil")
        journal.move_to_artifacts()
    assert job.execute_log.read_text().endswith(" Running true\n")


def test_a_journal_on_a_full_disk_still_tells_prefect(
    small_job: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER.name)
    with Journal(small_job, LOGGER) as journal:
        with pytest.raises(OSError, match="No space left"):
            (small_job.root / "filler").write_bytes(b"x" * 10**6)
        journal.say("Ended succeeded")
        journal.move_to_artifacts()
    assert caplog.messages == [
        "Ended succeeded",
        "execute.log is incomplete: No space left on device",
    ]
