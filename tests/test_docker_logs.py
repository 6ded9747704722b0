"""Container output whose connection is cut again and again: whole, in order, nothing twice."""

import asyncio
import hashlib
import itertools
import random
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prefect_docker import DockerHost

from flows.engine.contract import Tailed
from flows.engine.docker.engine import DockerEngine
from flows.engine.docker.log_position import Position, UnlikeLogError
from flows.engine.docker.logs import frames
from flows.spec import ContainerSpec
from flows.workspace.folder import Workspace
from tests.gateway import Gateway
from tests.runs import BUSYBOX, payload, until_async
from tests.specs import compiled, new_run

docker = pytest.mark.docker

# What keeps bytes as they are; the engine's default keeps text.
EXACT = ("--log-driver", "local", "--log-opt", "max-size=1g", "--log-opt", "compress=false")


class Collector:
    """A sink that keeps everything, and tells when it has enough."""

    def __init__(self) -> None:
        self.output = bytearray()
        self._news = threading.Condition()

    def write(self, chunk: bytes) -> None:
        with self._news:
            self.output += chunk
            self._news.notify_all()

    async def until(self, wanted: bytes) -> None:
        def wait() -> bool:
            with self._news:
                return self._news.wait_for(lambda: wanted in self.output, timeout=60)

        assert await asyncio.to_thread(wait), f"{wanted!r} never came"


def spec_of(folder: Path, *command: str) -> ContainerSpec:
    run = new_run()
    return compiled(payload(*command, timeoutSeconds=60), Workspace(folder, run.job_id).mount, run)


class Case:
    """Containers that are started and watched directly, and tailed through a proxy that cuts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.engine = DockerEngine()
        self._specs: list[ContainerSpec] = []

    def create(self, script: str, *options: str) -> ContainerSpec:
        spec = spec_of(self._folder, "sh", "-c", script)
        labels = [f"--label={key}={value}" for key, value in spec.labels.items()]
        folder = f"--volume={spec.mounts[0].source}:{spec.mounts[0].target}"
        words = ["docker", "create", "--init", "--name", spec.name, folder, *labels, *options]
        subprocess.run([*words, BUSYBOX, *spec.command], capture_output=True, check=True)
        self._specs.append(spec)
        return spec

    async def run(self, proxy: Gateway, script: str, *options: str) -> tuple[bytes, Tailed]:
        spec, sink = self.create(script, *options), Collector()
        async with through(proxy) as engine:
            async with engine.tail(spec, sink) as tailed:
                await self.engine.start(spec)
                assert await self.engine.wait(spec, 60)
            return bytes(sink.output), tailed

    async def run_uncut(self, script: str, *options: str) -> tuple[bytes, Tailed]:
        with Gateway() as patient:
            return await self.run(patient, script, *options)

    async def run_and_cut(self, script: str, seen: bytes, *options: str) -> tuple[bytes, Tailed]:
        """Cut the connection once, as soon as `seen` has come through it."""
        spec, sink = self.create(script, *options), Collector()
        with Gateway() as patient:
            async with through(patient) as engine, engine.tail(spec, sink) as tailed:
                await self.engine.start(spec)
                await sink.until(seen)
                patient.cut()
                assert await self.engine.wait(spec, 60)
        return bytes(sink.output), tailed

    async def close(self) -> None:
        for spec in self._specs:
            await self.engine.destroy(spec)
        await self.engine.__aexit__(None, None, None)


@asynccontextmanager
async def through(proxy: Gateway) -> AsyncIterator[DockerEngine]:
    async with DockerEngine(host=DockerHost(base_url=proxy.url)) as engine:
        yield engine


@pytest.fixture
async def case(tmp_path: Path, outside_a_run: None) -> AsyncIterator[Case]:
    case = Case(tmp_path)
    yield case
    await case.close()


@pytest.fixture
def proxy() -> Iterator[Gateway]:
    with Gateway(life_seconds=0.5) as cutting:
        yield cutting


def output_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("output of mm-")]


def numbered(count: int) -> str:
    step = "i=$((i+1)); echo out $i; echo err $i >&2; sleep 0.02"
    return f"i=0; while [ $i -lt {count} ]; do {step}; done"


def stream(output: bytes | bytearray, name: str) -> list[int]:
    """The numbers that one stream of `numbered` brought, in the order they came."""
    words = [line.split() for line in output.decode().splitlines()]
    return [int(number) for each, number in words if each == name]


def counted(count: int) -> list[int]:
    return list(range(1, count + 1))


@docker
async def test_lines_of_both_streams_come_once_and_in_order(case: Case, proxy: Gateway) -> None:
    output, tailed = await case.run(proxy, numbered(160))
    assert (stream(output, "out"), stream(output, "err")) == (counted(160), counted(160))
    assert tailed.complete
    assert tailed.reconnects >= 4
    await until_async(lambda: not output_threads() and proxy.connections == 0)


@docker
async def test_output_that_nobody_cuts_is_complete_without_a_reconnect(case: Case) -> None:
    output, tailed = await case.run_uncut("echo one; printf two")
    assert (output, tailed) == (b"one\ntwo", Tailed(reconnects=0, complete=True))


@docker
async def test_a_container_may_close_a_stream_and_run_on(case: Case, proxy: Gateway) -> None:
    output, tailed = await case.run(proxy, "echo one; exec 1>&-; sleep 1; echo two >&2")
    assert (output, tailed.complete) == (b"one\ntwo\n", True)
    # Nobody cuts this one: a busy machine is slower than the half second to the cut.
    output, tailed = await case.run_uncut("echo one; exec 1>&- 2>&-; sleep 0.5; exit 3")
    assert (output, tailed) == (b"one\n", Tailed(reconnects=0, complete=True))


@docker
async def test_a_flood_is_whole(case: Case) -> None:
    script = "seq 1 200000 | awk '{printf \"%d %092d\\n\", $1, 0}'"
    expected = b"".join(b"%d %092d\n" % (number, 0) for number in range(1, 200_001))
    assert len(expected) > 19_000_000
    with Gateway(life_seconds=0.5, lives=3) as proxy:
        output, tailed = await case.run(proxy, script)
    assert hashlib.sha256(output).digest() == hashlib.sha256(expected).digest()
    assert tailed.complete
    assert tailed.reconnects >= 1


@docker
async def test_long_lines_and_a_missing_final_newline_are_kept(case: Case, proxy: Gateway) -> None:
    part = "head -c 1000000 /dev/zero | tr '\\0' x; echo"
    output, tailed = await case.run(
        proxy, f"printf '> '; for i in 1 2 3; do sleep 0.4; {part}; done; printf end"
    )
    assert output == b"> " + 3 * (b"x" * 1_000_000 + b"\n") + b"end"
    assert tailed.complete
    assert tailed.reconnects >= 1


PROGRAM = "head -c 100000 /bin/busybox"
BINARY = f"{PROGRAM}; printf 'caf\\303'; sleep 2; printf '\\251 \\377'"


@docker
async def test_bytes_that_are_no_text_are_kept_where_the_engine_keeps_them(case: Case) -> None:
    whole, _ = await case.run_uncut(PROGRAM, *EXACT)
    output, tailed = await case.run_and_cut(BINARY, b"caf\303", *EXACT)
    assert output == whole + "café ".encode() + b"\xff"
    assert tailed.complete


@docker
async def test_bytes_that_the_engine_replaced_shift_nothing_and_are_owned_up_to(
    case: Case,
) -> None:
    whole, tailed = await case.run_uncut(PROGRAM)
    assert (len(whole), tailed) == (100_000, Tailed(reconnects=0, complete=True))
    output, tailed = await case.run_and_cut(BINARY, b"caf\303")
    assert output == whole + "café \N{REPLACEMENT CHARACTER}".encode()
    assert not tailed.complete


@docker
async def test_an_engine_that_does_not_answer_for_a_while_is_waited_for(
    case: Case, proxy: Gateway
) -> None:
    spec, sink = case.create(numbered(120)), Collector()
    async with through(proxy) as engine, engine.tail(spec, sink) as tailed:
        await case.engine.start(spec)
        await sink.until(b"out 10\n")
        proxy.refuse()
        asyncio.get_running_loop().call_later(2, proxy.clear)
        assert await case.engine.wait(spec, 60)
    output = sink.output
    assert (stream(output, "out"), stream(output, "err")) == (counted(120), counted(120))
    assert tailed.complete


@docker
async def test_a_container_that_another_process_started_is_replayed(case: Case) -> None:
    spec, first, second, third = case.create(numbered(100)), Collector(), Collector(), Collector()
    with Gateway() as patient:
        async with through(patient) as engine, engine.tail(spec, first):
            await case.engine.start(spec)
            await first.until(b"out 20\n")
            async with engine.tail(spec, second, replay=True) as running:
                await second.until(b"out 20\n")
                patient.cut()
                assert await case.engine.wait(spec, 60)
    async with case.engine.tail(spec, third, replay=True) as finished:
        pass
    assert sorted(first.output.splitlines()) == sorted(second.output.splitlines())
    assert sorted(second.output.splitlines()) == sorted(third.output.splitlines())
    assert running.complete
    assert running.reconnects >= 1
    assert finished == Tailed(reconnects=0, complete=True)


@docker
async def test_a_container_that_was_never_started_is_replayed_from_its_start(case: Case) -> None:
    spec, sink = case.create("echo one; echo two"), Collector()
    async with case.engine.tail(spec, sink, replay=True) as tailed:
        await case.engine.start(spec)
        assert await case.engine.wait(spec, 30)
    assert (bytes(sink.output), tailed.complete) == (b"one\ntwo\n", True)


@docker
async def test_hanging_up_ends_a_resumed_stream_at_once(case: Case, proxy: Gateway) -> None:
    spec, sink = case.create("while true; do echo on; sleep 0.01; done"), Collector()
    await case.engine.start(spec)
    async with through(proxy) as engine:
        tail = engine.tail(spec, sink)
        tailed = await tail.__aenter__()
        await until_async(lambda: tailed.reconnects > 0)
        assert not await tail.__aexit__(KeyError, KeyError(), None)
        await until_async(lambda: not output_threads())
    assert not tailed.complete


@docker
async def test_hanging_up_ends_a_quiet_replay_at_once(case: Case) -> None:
    spec, sink = case.create("echo up; sleep 60"), Collector()
    await case.engine.start(spec)
    with Gateway() as patient:
        async with through(patient) as engine:
            tail = engine.tail(spec, sink, replay=True)
            await tail.__aenter__()
            await sink.until(b"up")
            assert not await tail.__aexit__(KeyError, KeyError(), None)
            await until_async(lambda: not output_threads())
        await until_async(lambda: patient.connections == 0)


@docker
async def test_output_that_the_engine_no_longer_has_is_not_called_complete(
    case: Case, proxy: Gateway
) -> None:
    spec, sink = case.create(numbered(100)), Collector()
    async with through(proxy) as engine, engine.tail(spec, sink) as gone:
        await case.engine.start(spec)
        await sink.until(b"out 10\n")
        proxy.refuse()
        await case.engine.destroy(spec)
        proxy.clear()
    assert not gone.complete

    _, unreadable = await case.run(proxy, "echo one; sleep 1; echo two", "--log-driver", "none")
    assert not unreadable.complete
    output, uncut = await case.run_uncut("echo one; echo two", "--log-driver", "none")
    assert (output, uncut) == (b"one\ntwo\n", Tailed(reconnects=0, complete=True))


ROTATED = ("--log-driver", "json-file", "--log-opt", "max-size=10k", "--log-opt", "max-file=1")


@docker
async def test_a_rotated_log_is_taken_up_where_it_is_and_not_called_complete(case: Case) -> None:
    spec, sink = case.create(f"seq 1 5000; sleep 0.5; {numbered(20)}", *ROTATED), Collector()
    with Gateway() as patient:
        async with through(patient) as engine, engine.tail(spec, sink) as tailed:
            await case.engine.start(spec)
            await sink.until(b"\n5000\n")
            patient.cut()
            assert await case.engine.wait(spec, 60)
    output = bytes(sink.output)
    assert output.startswith(b"".join(b"%d\n" % number for number in range(1, 5001)))
    assert b"out 20\n" in output
    assert not tailed.complete


@docker
@pytest.mark.parametrize("options", [ROTATED, EXACT], ids=["rotated", "without newlines"])
async def test_a_log_that_differs_harms_no_output_that_nobody_cut(
    case: Case, options: tuple[str, ...]
) -> None:
    # This engine's "local" driver loses the newline of a line of more than 16 KiB.
    script = "head -c 50000 /dev/zero | tr '\\0' x; echo; seq 1 5000"
    expected = b"x" * 50_000 + b"\n" + b"".join(b"%d\n" % number for number in range(1, 5001))
    with Gateway() as patient:
        output, tailed = await case.run(patient, script, *options)
    assert (output == expected, tailed) == (True, Tailed(reconnects=0, complete=True))


def pieces(data: bytes, generator: random.Random) -> Iterator[bytes]:
    while data:
        size = generator.choice((1, 2, 3, 10, 5000, 40_000))
        yield data[:size]
        data = data[size:]


def logged(written: bytes) -> bytes:
    """What json-file makes of it, a byte at a time; see Docker's daemon/logger/copier.go."""
    result = b""
    for line in written.splitlines(keepends=True):
        for start in range(0, len(line), 16 * 1024):
            piece = line[start : start + 16 * 1024]
            if piece.isascii():
                result += piece
                continue
            while piece:
                size = next((n for n in range(1, 5) if is_character(piece[:n])), 0)
                result += piece[:size] or "\N{REPLACEMENT CHARACTER}".encode()
                piece = piece[size or 1 :]
    return result


def is_character(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("seed", range(40))
def test_a_position_finds_its_place_in_a_log_that_was_made_text(seed: int) -> None:
    generator = random.Random(seed)
    alphabet = ["a", "é", "€", "😀", "\xff", "\n", "\xe2\x82", "\xef", "\xef\xbc", "x" * 9000]
    symbols = [
        each.encode("latin-1")
        if max(each) < "\u0100" and each > "\x7f" and each != "é"
        else each.encode()
        for each in alphabet
    ]
    written = b"".join(generator.choices(symbols, k=generator.choice((3, 12, 40))))
    log = logged(written).replace(b"\r", b"")
    cut = generator.randrange(len(written) + 1)
    position = Position(as_text=True)
    for piece in pieces(written[:cut], generator):
        position.add(piece)
    rest = b""
    for stop in (len(log) // 2, len(log)):
        rewind = position.rewind()
        rest += b"".join(rewind.fresh(piece) for piece in pieces(log[:stop], generator))
    assert rewind.caught_up
    assert log.endswith(rest)
    before = log[: len(log) - len(rest)]
    assert before in (
        logged(written[:cut]),
        *(logged(written[: cut - half]) + written[cut - half : cut] for half in (1, 2, 3)),
    )


def test_a_position_notices_another_log() -> None:
    position = Position(as_text=False)
    for number in range(10_000):
        position.add(b"%d\n" % number)
    rewind = position.rewind()
    with pytest.raises(UnlikeLogError):
        rewind.fresh(b"5" * 20_000)


@pytest.mark.parametrize("size", [1, 3, 8, 11, 1000])
def test_frames_are_found_however_they_are_cut_up(size: int) -> None:
    sent = b"\x01\0\0\0\0\0\0\x03abc\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x01d"
    chunks = (sent[start : start + size] for start in range(0, len(sent), size))
    found = {
        stream: b"".join(chunk for _, chunk in group)
        for stream, group in itertools.groupby(frames(chunks), key=lambda frame: frame[0])
    }
    assert found == {1: b"abc", 2: b"d"}
