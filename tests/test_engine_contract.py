"""What `flows.engine.contract.Engine` promises, on every engine: in memory, recording, Docker."""

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flows.engine.contract import Engine, Tailed
from flows.engine.docker.engine import DockerEngine
from flows.engine.selection import ENGINES, OpenEngine, open_engine
from flows.engine.types import Owner, plan_reclaim
from flows.errors import ContainerGone, EngineError, ImageError, Rejected
from flows.payload.policy import Policy
from flows.spec import LABEL_JOB_ID, LABEL_SPEC, ContainerSpec
from flows.testing import FakeEngine
from flows.testing.fake_container import FakeContainer
from flows.workspace.folder import Workspace
from tests.behaviours import busybox
from tests.hosts import fill_as_others, need_root
from tests.recording_engine import RecordingEngine
from tests.runs import BUSYBOX, EAT_MEMORY, left_on_engine, payload, until_async
from tests.specs import Collector, compiled, new_run

ENGINES_HERE: dict[str, OpenEngine] = {
    **ENGINES,
    "fake": lambda _: nullcontext(busybox()),
    "recording": RecordingEngine,
}

# The same behaviour, as each engine is told it.
COMMANDS = {
    "fake": {
        "print": ("print", "hello"),
        "exit 3": ("exit", "3"),
        "sleep": ("sleep", "60"),
        "ignore sigterm": ("ignore-sigterm", "60"),
        "count": ("count", "0.1"),
        "missing": ("no-such-command",),
        "eat memory": ("eat-memory",),
    },
    "docker": {
        "print": ("echo", "hello"),
        "exit 3": ("sh", "-c", "exit 3"),
        "sleep": ("sh", "-c", "echo up; exec sleep 60"),
        "ignore sigterm": ("sh", "-c", "trap '' TERM; echo up; while true; do sleep 1; done"),
        "count": ("sh", "-c", "while true; do i=$((i+1)); echo $i; sleep 0.1; done"),
        "missing": ("no-such-command",),
        "eat memory": ("sh", "-c", f"{EAT_MEMORY}; exit 137"),
    },
}


class Case:
    """An engine, and specs for it."""

    def __init__(self, kind: str, engine: Engine, folder: Path) -> None:
        self.kind = kind
        self.engine = engine
        self._folder = folder

    def spec(self, behaviour: str, **container: Any) -> ContainerSpec:
        run = new_run()
        workspace = Workspace(self._folder, run.job_id)
        workspace.create("container")
        commands = COMMANDS.get(self.kind, COMMANDS["fake"])
        raw = payload(*commands[behaviour], **({"timeoutSeconds": 60} | container))
        return compiled(raw, workspace.mount, run, Policy(stop_grace_seconds=1))

    async def created(self, behaviour: str, **container: Any) -> ContainerSpec:
        spec = self.spec(behaviour, **container)
        await self.engine.create(spec, await self.engine.pull(spec), {})
        return spec

    async def started(self, behaviour: str, **container: Any) -> ContainerSpec:
        spec = await self.created(behaviour, **container)
        await self.engine.start(spec)
        return spec

    @asynccontextmanager
    async def up(self, behaviour: str) -> AsyncIterator[ContainerSpec]:
        """A container whose program said so: before, neither it nor its init heeds a signal."""
        spec, sink = await self.created(behaviour), Collector()
        async with self.engine.tail(spec, sink):
            await self.engine.start(spec)
            await until_async(lambda: sink.output == b"up\n")
            yield spec

    @contextmanager
    def stranger(self, spec: ContainerSpec) -> Iterator[str]:
        """Somebody else's container, of an image that was made of the spec's; its id."""
        memory = self._memory
        if memory is not None:
            container = FakeContainer(replace(spec, name="stranger"), {}, {})
            memory.containers["stranger"] = container
            yield "stranger"
            return
        image = docker("commit", spec.name)
        found = docker("create", image)
        try:
            yield found
        finally:
            docker("rm", "--force", found)
            docker("rmi", image)

    def has(self, container: str) -> bool:
        """Whether the engine has it."""
        if (memory := self._memory) is not None:
            return container in memory.containers
        command = ["docker", "inspect", container]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    @property
    def _memory(self) -> FakeEngine | None:
        engine = self.engine._engine if isinstance(self.engine, RecordingEngine) else self.engine
        return engine if isinstance(engine, FakeEngine) else None


def docker(*words: str) -> str:
    """What the command says, which succeeds."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.docker] if name in ENGINES else [])
        for name in ENGINES_HERE
    ]
)
async def case(
    request: pytest.FixtureRequest, tmp_path: Path, outside_a_run: None
) -> AsyncIterator[Case]:
    async with ENGINES_HERE[request.param](None) as engine:
        yield Case(request.param, engine, tmp_path)


async def test_an_engine_is_opened_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "recording", RecordingEngine)
    async with open_engine(name="recording") as engine:
        assert isinstance(engine, RecordingEngine)
        spec = await Case("recording", engine, tmp_path).started("exit 3")
        assert await engine.wait(spec, 30)
        await engine.destroy(spec)
    steps = [(method, spec.name) for method in ("create", "start", "wait", "destroy")]
    assert engine.calls == [("pull", BUSYBOX), *steps]


async def test_a_container_runs_to_its_end_and_its_output_is_whole(case: Case) -> None:
    spec, sink, again = await case.created("print"), Collector(), Collector()
    async with case.engine.tail(spec, sink) as tailed:
        await case.engine.start(spec)
        assert await case.engine.wait(spec, 30)
    state = await case.engine.inspect(spec)
    async with case.engine.tail(spec, again, replay=True) as replayed:
        pass
    await case.engine.destroy(spec)
    assert (state.running, state.exit_code, state.oom_killed) == (False, 0, False)
    assert state.started_at is not None
    assert state.finished_at is not None
    # The engine notes the start after it happened, at times a moment after a short life's end.
    assert timedelta(seconds=-1) < state.finished_at - state.started_at < timedelta(seconds=30)
    assert sink.output == again.output == b"hello\n"
    assert tailed == replayed == Tailed(reconnects=0, complete=True)


async def test_a_container_that_exists_tells_its_secrets(case: Case) -> None:
    spec = case.spec("print", secrets={"TOKEN": "task-x"}, env={"OTHER": "y"})
    with pytest.raises(ContainerGone):
        await case.engine.secrets(spec)
    image = await case.engine.pull(spec)
    with pytest.raises(EngineError, match="the values of TOKEN are not at hand"):
        await case.engine.create(spec, image, {})
    await case.engine.create(spec, image, {"TOKEN": "value of task-x"})
    assert await case.engine.secrets(spec) == {"TOKEN": "value of task-x"}
    await case.engine.destroy(spec)


@pytest.mark.parametrize(
    ("behaviour", "code", "output"),
    [("exit 3", 3, b""), ("missing", 127, b"exec no-such-command failed: No such file")],
)
async def test_the_exit_code_is_the_containers_own(
    case: Case, behaviour: str, code: int, output: bytes
) -> None:
    spec, sink = await case.started(behaviour), Collector()
    assert await case.engine.wait(spec, 30)
    async with case.engine.tail(spec, sink, replay=True):
        state = await case.engine.inspect(spec)
    assert (state.exit_code, state.error) == (code, "")
    assert output in sink.output
    await case.engine.destroy(spec)


async def test_the_engine_itself_tells_that_memory_ran_out(case: Case) -> None:
    spec = await case.started("eat memory", resources={"memory": "16m"})
    assert await case.engine.wait(spec, 30)
    state = await case.engine.inspect(spec)
    assert (state.oom_killed, state.exit_code) == (True, 137)
    await case.engine.destroy(spec)


async def test_waiting_ends_when_its_time_is_over_and_the_container_runs_on(case: Case) -> None:
    spec = await case.started("sleep")
    assert not await case.engine.wait(spec, 0.3)
    assert (await case.engine.inspect(spec)).running
    await case.engine.destroy(spec)


@pytest.mark.parametrize(("behaviour", "code"), [("sleep", 143), ("ignore sigterm", 137)])
async def test_stopping_is_a_signal_a_grace_and_a_kill(
    case: Case, behaviour: str, code: int
) -> None:
    async with case.up(behaviour) as spec:
        await case.engine.stop(spec)
    state = await case.engine.inspect(spec)
    assert (state.running, state.exit_code) == (False, code)
    await case.engine.stop(spec)
    await case.engine.destroy(spec)
    await case.engine.stop(spec)


async def test_a_paused_container_does_nothing_until_it_is_unpaused(case: Case) -> None:
    spec = await case.started("count")
    sink = Collector()
    async with case.engine.tail(spec, sink, replay=True):
        await until_async(lambda: b"2\n" in sink.output)
        for _ in range(2):
            await case.engine.pause(spec)
        state = await case.engine.inspect(spec)
        assert (state.running, state.paused, state.exit_code) == (True, True, None)
        told = b""
        # What it wrote before may still come.
        async with asyncio.timeout(60):
            while sink.output != told:
                told = sink.output
                assert not await case.engine.wait(spec, 1.0)
        for _ in range(2):
            await case.engine.unpause(spec)
        await until_async(lambda: len(sink.output) > len(told))
        assert not (await case.engine.inspect(spec)).paused
        await case.engine.stop(spec)
    await case.engine.destroy(spec)


async def test_a_paused_container_is_stopped_and_removed_as_any_other(case: Case) -> None:
    async with case.up("sleep") as stopped, case.up("sleep") as removed:
        for spec in (stopped, removed):
            await case.engine.pause(spec)
        await case.engine.stop(stopped)
        state = await case.engine.inspect(stopped)
        await case.engine.destroy(removed)
    assert (state.running, state.paused, state.exit_code) == (False, False, 143)
    for spec in (stopped, removed):
        await case.engine.destroy(spec)
        with pytest.raises(ContainerGone):
            await case.engine.inspect(spec)


async def test_pausing_what_does_not_run_does_nothing_and_what_is_gone_is_told(case: Case) -> None:
    spec = await case.created("exit 3")
    for is_started in (False, True):
        if is_started:
            await case.engine.start(spec)
            assert await case.engine.wait(spec, 30)
        before = await case.engine.inspect(spec)
        await case.engine.pause(spec)
        await case.engine.unpause(spec)
        assert await case.engine.inspect(spec) == before
    await case.engine.destroy(spec)
    for step in (case.engine.pause, case.engine.unpause):
        with pytest.raises(ContainerGone):
            await step(spec)


async def test_an_image_that_may_not_be_pulled_and_is_not_there_is_an_image_error(
    case: Case,
) -> None:
    spec = replace(case.spec("print"), image="moonmind-local/no-such-image:1")
    with pytest.raises(ImageError, match="is not on this host"):
        await case.engine.pull(spec)


async def test_an_image_that_is_there_is_told_as_such(case: Case) -> None:
    image = await case.engine.pull(case.spec("print"))
    assert (image.cache_hit, image.pulled_bytes, image.pull_seconds) == (True, 0, 0.0)
    with pytest.raises(ImageError, match="is made for linux/amd64, not for linux/s390x"):
        await case.engine.pull(case.spec("print", platform="linux/s390x"))


async def test_destroying_is_safe_before_create_and_twice(case: Case) -> None:
    spec = case.spec("sleep")
    await case.engine.destroy(spec)
    await case.engine.create(spec, await case.engine.pull(spec), {})
    await case.engine.start(spec)
    for _ in range(2):
        await case.engine.destroy(spec)
    with pytest.raises(ContainerGone):
        await case.engine.inspect(spec)


async def test_a_name_that_is_taken_is_refused(case: Case) -> None:
    spec = await case.created("sleep")
    with pytest.raises(EngineError):
        await case.engine.create(spec, await case.engine.pull(spec), {})
    await case.engine.destroy(spec)


async def test_what_is_owned_is_discarded_while_it_carries_its_jobs_label(case: Case) -> None:
    spec = await case.created("sleep")
    (ours,) = [each for each in await case.engine.owned() if each.job_id == spec.job_id]
    assert (ours.kind, ours.name) == ("container", spec.name)
    assert ours.labels.items() >= spec.labels.items()
    of_another = replace(ours, labels={**ours.labels, LABEL_JOB_ID: "another"})
    assert not await case.engine.discard(of_another)
    assert await case.engine.find(spec)
    assert [await case.engine.discard(ours) for _ in range(2)] == [True, False]
    assert not await case.engine.find(spec)


async def test_a_cache_of_another_owner_is_refused(case: Case) -> None:
    name = f"contract-{uuid4().hex}"
    spec = await case.created("print", cacheVolumes=[{"name": name, "target": "/c"}])
    job, cache = spec.mounts
    try:
        await case.engine.destroy(spec)
        theirs = replace(spec, mounts=(job, replace(cache, owner="repository:x/y")))
        with pytest.raises(Rejected, match="belongs to flow:container-task, and this run is of re"):
            await case.engine.create(theirs, await case.engine.pull(theirs), {})
        await case.engine.create(spec, await case.engine.pull(spec), {})
    finally:
        await case.engine.destroy(spec)
        if case.kind == "docker":
            docker("volume", "rm", name)


async def test_what_merely_carries_a_jobs_label_is_nobodys_to_remove(case: Case) -> None:
    """An image that is made of a task's container hands the labels on."""
    spec = await case.created("sleep")
    (ours,) = [each for each in await case.engine.owned() if each.job_id == spec.job_id]
    with case.stranger(spec) as stranger:
        await case.engine.destroy(spec)
        assert spec.job_id not in [each.job_id for each in await case.engine.owned()]
        assert not await case.engine.discard(replace(ours, id=stranger, name=stranger))
        assert case.has(stranger)


async def test_a_container_of_another_spec_is_not_found(case: Case) -> None:
    spec = await case.created("print")
    other = replace(spec, labels={**spec.labels, LABEL_SPEC: "0" * 64})
    assert [await case.engine.find(each) for each in (spec, other)] == [True, False]
    await case.engine.destroy(spec)


async def test_an_engine_tells_who_it_is_and_how_large_its_host_is(case: Case) -> None:
    pong, capacity = await case.engine.ping(), await case.engine.capacity()
    assert pong.server
    assert pong.now is not None
    assert abs(pong.now - pong.asked_at) < timedelta(seconds=5)
    assert capacity.cpus >= 1
    assert capacity.memory_bytes > 64 * 1024**2


async def test_waiting_ends_when_the_container_vanishes(case: Case) -> None:
    spec = await case.started("sleep")
    waiting = asyncio.create_task(case.engine.wait(spec, 30))
    await asyncio.sleep(0)
    await case.engine.destroy(spec)
    async with asyncio.timeout(20):
        (ended,) = await asyncio.gather(waiting, return_exceptions=True)
    assert ended is True or isinstance(ended, ContainerGone)
    with pytest.raises(ContainerGone):
        await case.engine.wait(spec, 30)


@pytest.mark.parametrize(
    ("workdir", "missing"), [("/bin", False), ("/no/such", True)], ids=["there", "not there"]
)
async def test_a_working_directory_that_the_image_lacks_is_found(
    case: Case, workdir: str, missing: bool
) -> None:
    spec = await case.created("print", workdir=workdir)
    assert await case.engine.missing_workdir(spec) is missing
    await case.engine.destroy(spec)


async def test_reclaimed_files_are_their_new_owners_and_nothing_outside_is(case: Case) -> None:
    need_root("gives files away")
    spec = case.spec("print")
    top = Path(spec.mounts[0].source)
    outside = top.parent / "outside"
    outside.write_text("precious")
    fill_as_others(top / "repo")
    owner = Owner(12345, 54321)
    decided = plan_reclaim(
        spec.name, spec.mounts[0], BUSYBOX, owner, spec.labels, datetime.now(UTC)
    )
    for _ in range(2):
        await case.engine.reclaim(decided)
    files = [path for path in (top, *top.rglob("*")) if path.is_dir() or path.is_file()]
    files.remove(top / "repo" / "link")
    assert len(files) == 13
    for path in files:
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (12345, 54321), path
        assert found.st_mode & 0o6700 == (
            0o700 if path.is_dir() or path.name == "program" else 0o600
        )
    for untouched in (outside, top / "repo" / "device"):
        assert untouched.stat().st_uid == os.geteuid()
    assert left_on_engine(spec.job_id) == []


async def test_an_image_for_reclaiming_that_cannot_be_had_is_an_image_error(case: Case) -> None:
    spec = case.spec("print")
    image = "127.0.0.1:1/no-such-image:1"
    decided = plan_reclaim(
        spec.name, spec.mounts[0], image, Owner(1, 1), spec.labels, datetime.now(UTC)
    )
    with pytest.raises(ImageError):
        await case.engine.reclaim(decided)


@pytest.mark.docker
async def test_a_foreign_container_of_the_same_name_is_never_touched(
    tmp_path: Path, outside_a_run: None
) -> None:
    async with DockerEngine() as engine:
        spec = Case("docker", engine, tmp_path).spec("sleep")
        labels = [f"--label={key}={value}" for key, value in spec.labels.items()]
        foreign = docker("create", "--name", spec.name, *labels, BUSYBOX, "true")
        try:
            with pytest.raises(EngineError, match="already in use"):
                await engine.create(spec, await engine.pull(spec), {})
            assert not await engine.find(spec)
            await engine.destroy(spec)
            docker("inspect", foreign)
        finally:
            docker("rm", "--force", foreign)


def resident_bytes() -> int:
    """The memory of this process."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


@pytest.mark.docker
async def test_a_hundred_megabytes_arrive_in_order_with_flat_memory(
    tmp_path: Path, outside_a_run: None
) -> None:
    class Checking:
        """Counts and checks lines as they come; keeps nothing but the last partial one."""

        def __init__(self) -> None:
            self.lines, self.bytes, self._rest = 0, 0, b""
            self.peak_bytes = 0

        def write(self, chunk: bytes) -> None:
            self.bytes += len(chunk)
            self.peak_bytes = max(self.peak_bytes, resident_bytes())
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                self.lines += 1
                assert int(line.split()[0]) == self.lines

    script = "seq 1 1000000 | awk '{printf \"%d %092d\\n\", $1, 0}'"
    async with DockerEngine() as engine:
        case, sink = Case("docker", engine, tmp_path), Checking()
        spec = replace(case.spec("print"), command=("sh", "-c", script))
        await engine.create(spec, await engine.pull(spec), {})
        threads, memory = threading.active_count(), resident_bytes()
        started = time.monotonic()
        async with engine.tail(spec, sink):
            await engine.start(spec)
            assert await engine.wait(spec, 120)
        await engine.destroy(spec)
    assert sink.lines == 1_000_000
    assert sink.bytes > 95_000_000
    assert sink.peak_bytes - memory < 30 * 1024**2
    assert threading.active_count() <= threads + 1
    assert time.monotonic() - started < 120
    assert left_on_engine(spec.job_id) == []
