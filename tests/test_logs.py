"""The container's output on its two ways, and the journal of the stages."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest

from flows.workspace.logs import Journal, RunnerLog, Teller
from tests.hosts import disk

LOGGER = logging.getLogger("tests.journal")
LIVE_BYTES = 4 * 1024**2
RECORD_BYTES = 32 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "artifacts" / "container" / "logs" / "runner.log"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    with disk(tmp_path, "256k") as folder:
        yield folder


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([b"one\n", b"two\n"], "one\ntwo"),
        ([b"no newline at the end"], "no newline at the end"),
        ([b"caf\xc3", b"\xa9\n"], "café"),
        ([b"broken \xff\xfe\n"], "broken \ufffd\ufffd"),
        ([b"NUL \0 here\n"], "NUL \ufffd here"),
        ([b"progress 1%\rprogress 2%\r"], "progress 1%\rprogress 2%\r"),
        ([b"", b"\n", b"a\n"], "\na"),
    ],
)
def test_output_is_whole_in_the_file_and_readable_in_prefect(
    path: Path, tmp_path: Path, chunks: list[bytes], text: str
) -> None:
    told: list[str] = []
    with RunnerLog(path, tmp_path, told.append) as log:
        for chunk in chunks:
            log.write(chunk)
        facts = log.facts()
    assert path.read_bytes() == b"".join(chunks)
    assert told == [text]
    assert (facts.bytes, facts.dropped_from_ui) == (len(b"".join(chunks)), 0)
    assert facts.error is None
    assert facts.tail.rstrip("\n") == text


def test_a_silent_task_is_told_in_no_record(path: Path, tmp_path: Path) -> None:
    told: list[str] = []
    with RunnerLog(path, tmp_path, told.append) as log:
        facts = log.facts()
    assert told == []
    assert (facts.bytes, facts.tail, path.read_bytes()) == (0, "", b"")


def test_a_flood_is_whole_in_the_file_and_bounded_in_prefect(path: Path, tmp_path: Path) -> None:
    told: list[str] = []
    line = b"%015d\n"
    with RunnerLog(path, tmp_path, told.append) as log:
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
    teller = Teller(told.put, every_seconds=0.001)
    chunk, told_bytes = b"x" * 15_999 + b"\n", 0
    while told_bytes < LIVE_BYTES:
        teller.write(chunk)
        told_bytes += len(told.get(timeout=30)) + 1
    for _ in range(1000):
        teller.write(chunk)
    with pytest.raises(Empty):
        told.get(timeout=0.2)
    teller.write(b"the end\n")
    teller.finish()
    last = told.get(timeout=30)
    assert last.endswith("x\nthe end")
    assert len(last) < RECORD_BYTES + 100
    assert told.empty()
    assert teller.dropped > 1000 * len(chunk) - RECORD_BYTES


def test_output_is_told_while_the_task_runs() -> None:
    told: SimpleQueue[str] = SimpleQueue()
    teller = Teller(told.put, every_seconds=0.01)
    teller.write(b"first\n")
    assert told.get(timeout=30) == "first"
    teller.write(b"a prompt without an end> ")
    assert told.get(timeout=30) == "a prompt without an end> "
    teller.finish()
    teller.finish()
    assert told.empty()


def test_a_slow_listener_holds_nobody_up() -> None:
    told: list[str] = []
    listening = threading.Event()

    def slow(record: str) -> None:
        listening.wait(30)
        told.append(record)

    teller = Teller(slow, every_seconds=0.001)
    for _ in range(1000):
        teller.write(b"x" * 10_000)
    teller.write(b"the end")
    listening.set()
    teller.finish()
    assert told[-1].endswith("xthe end")


def test_a_task_that_removes_the_log_leaves_it_whole(path: Path, tmp_path: Path) -> None:
    with RunnerLog(path, tmp_path, LOGGER.info) as log:
        log.write(b"before\n")
        path.unlink()
        log.write(b"after\n")
        facts = log.facts()
    assert path.read_bytes() == b"before\nafter\n"
    assert (facts.error, facts.tail) == (None, "before\nafter\n")


@pytest.mark.parametrize(
    "content", [b"", b"before\nand a line of the task's own\n", b"forged\n", b"\0" * 7]
)
def test_a_log_that_the_task_changed_is_not_called_complete(
    path: Path, tmp_path: Path, content: bytes
) -> None:
    with RunnerLog(path, tmp_path, LOGGER.info) as log:
        log.write(b"before\n")
        path.write_bytes(content)
        facts = log.facts()
    assert facts.error == "runner.log is not as written: the task changed it while it ran"


def test_a_log_is_not_complete_whatever_time_the_task_gives_it(path: Path, tmp_path: Path) -> None:
    with RunnerLog(path, tmp_path, LOGGER.info) as log:
        log.write(b"before\n")
        times = path.stat()
        with path.open("r+b") as file:
            file.write(b"B")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        log.write(b"after\n")
        facts = log.facts()
    assert facts.error == "runner.log is not as written: the task changed it while it ran"


def test_a_log_that_the_task_moved_and_blew_up_is_whole_again(path: Path, tmp_path: Path) -> None:
    with RunnerLog(path, tmp_path, LOGGER.info) as log:
        log.write(b"before\n")
        path.rename(tmp_path / "moved")
        os.truncate(tmp_path / "moved", 8 * 1024**4)
        facts = log.facts()
    assert path.read_bytes() == b"before\n"
    assert facts.error is None


def test_a_hundred_megabytes_are_read_again_in_a_moment(path: Path, tmp_path: Path) -> None:
    chunk = os.urandom(1024**2)
    with RunnerLog(path, tmp_path, lambda record: None) as log:
        for _ in range(100):
            log.write(chunk)
        began = time.process_time()
        assert log.facts().error is None
        assert time.process_time() - began < 2


def test_a_full_disk_is_noted_and_the_output_still_drained(small_disk: Path) -> None:
    told: list[str] = []
    path = small_disk / "runner.log"
    with RunnerLog(path, small_disk, told.append) as log:
        for _ in range(64):
            log.write(b"x" * 15_999 + b"\n")
        log.write(b"the end\n")
        facts = log.facts()
    assert facts.error == "runner.log is incomplete: No space left on device"
    assert facts.bytes == 64 * 16_000 + 8
    assert 0 < path.stat().st_size <= 256 * 1024
    assert told[-1].endswith("the end")


def test_a_log_that_no_longer_fits_the_disk_is_noted(small_disk: Path) -> None:
    path = small_disk / "runner.log"
    with RunnerLog(path, small_disk, LOGGER.info) as log:
        log.write(b"x" * 150_000)
        path.unlink()
        facts = log.facts()
    assert facts.error == "runner.log is incomplete: No space left on device"


def test_a_journal_keeps_time_and_tells_prefect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER.name)
    path = tmp_path / "artifacts" / "logs" / "execute.log"
    for sentence in ("Prepared ü", "100% done"):
        with Journal(path, tmp_path, LOGGER) as journal:
            journal.say(sentence)
    lines = path.read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["Prepared ü", "100% done"]
    assert all(datetime.fromisoformat(line.partition(" ")[0]).tzinfo for line in lines)
    assert caplog.messages == ["Prepared ü", "100% done"]


def test_a_journal_that_the_task_changed_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "execute.log"
    with Journal(path, tmp_path, LOGGER) as journal:
        journal.say("Running true")
        path.write_bytes(path.read_bytes().replace(b"true", b"evil"))
    assert caplog.messages[-1].startswith("execute.log is not as written: the task changed it")


def test_a_journal_on_a_full_disk_still_tells_prefect(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER.name)
    path = small_disk / "execute.log"
    with Journal(path, small_disk, LOGGER) as journal:
        with pytest.raises(OSError, match="No space left"):
            (small_disk / "filler").write_bytes(b"x" * 10**6)
        journal.say("Ended succeeded")
        path.unlink()
    assert caplog.messages == [
        "Ended succeeded",
        "execute.log is incomplete: No space left on device",
    ]
