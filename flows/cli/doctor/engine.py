"""Checks of the Docker Engine, and of a proxy before it, by harmless calls and two small tasks."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from prefect.logging import disable_run_logger

from flows.cli.doctor import probe
from flows.cli.doctor.checkup import (
    SETTINGS,
    WORKDIR,
    Check,
    Finding,
    Level,
    Part,
    fault,
    ok,
    room_finding,
    skipped,
    split_advice,
    warning,
    without_leftovers,
)
from flows.engine.docker.probe import Obstacle, Quiet, Refusal, quiet, refused_calls, task_network
from flows.engine.images.pull import PullOptions
from flows.engine.selection import open_engine
from flows.engine.types import Pong
from flows.errors import EngineError
from flows.outcome import OutcomeName
from flows.payload.compiler import compile_spec
from flows.payload.parse import parse
from flows.payload.policy import Policy
from flows.runtime import execution
from flows.runtime.collect import reclaim
from flows.runtime.engine_wait import EngineWait
from flows.settings import HostSettings
from flows.spec import TASK_NETWORK, Run
from flows.threads import in_thread
from flows.workspace.folder import Workspace

ENGINE, NETWORK, CALLS, QUIET, CLOCK, PROBE, ROOM = (
    "Docker Engine",
    "network of the tasks",
    "calls to the engine",
    "quiet connections",
    "clock of the engine",
    "probe container",
    "disk of the engine",
)
_CLOCKS_APART = timedelta(seconds=5)
# A minute more than the ten after which some proxies cut.
_COMMON_SECONDS = 660
# A person waits for it.
_PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class EngineChecks:
    """The checks of one engine; what the first learns, the others use."""

    quiet_seconds: float
    pong: Pong | None = None
    interface: str = ""

    def checks(self) -> list[Check]:
        needs = (ENGINE,)
        return [
            Check(ENGINE, Part.ENGINE, self.check_engine),
            Check(CLOCK, Part.ENGINE, self.check_clock, needs),
            Check(NETWORK, Part.ENGINE, self.check_network, needs),
            Check(CALLS, Part.ENGINE, self.check_calls, needs, 60),
            Check(QUIET, Part.ENGINE, self.check_quiet, needs, self.quiet_seconds + 30),
            Check(
                PROBE, Part.ENGINE, self.check_tasks, (SETTINGS, WORKDIR, ENGINE, NETWORK), 150.0
            ),
        ]

    async def check_engine(self) -> Sequence[Finding]:
        """Whether one answers, and which."""
        try:
            async with open_engine() as engine:
                self.pong = pong = await engine.ping()
        except EngineError as error:
            mend = "start the engine, or name the right one in DOCKER_HOST"
            says, advice = split_advice(str(error))
            return [fault(ENGINE, says, f"{mend}; {advice}" if advice else mend)]
        says = f"{pong.server}, API {pong.api_version}, at {pong.address}"
        if tuple(map(int, pong.api_version.split("."))) < (1, 40):
            return [fault(ENGINE, f"{says} is too old", "use Docker Engine 19.03 or newer")]
        return [ok(ENGINE, says)]

    async def check_clock(self) -> Sequence[Finding]:
        """Whether the engine's host and this one agree on the time."""
        assert self.pong is not None
        return [clock_finding(CLOCK, "the engine's host", self.pong.now, self.pong.asked_at)]

    async def check_network(self) -> Sequence[Finding]:
        """Whether there is the network that tasks share, or can be."""
        try:
            self.interface = await in_thread(task_network)
        except EngineError as error:
            says, advice = split_advice(str(error))
            return [fault(NETWORK, says, advice)]
        says = f"tasks share {TASK_NETWORK}, on which they do not reach each other"
        return [ok(NETWORK, says)]

    async def check_tasks(self) -> Sequence[Finding]:
        """Whether two small tasks run as they should, and what answers them."""
        return await check_tasks(self.interface)

    async def check_calls(self) -> Sequence[Finding]:
        """Whether everything that runs ask of an engine gets through to it."""
        assert self.pong is not None
        refused = await in_thread(lambda: refused_calls(self._now()))
        return call_findings(refused, self.pong.address)

    async def check_quiet(self) -> Sequence[Finding]:
        """Whether a connection on which nothing is said stays open, as a quiet task's must."""
        assert self.pong is not None
        if self.pong.is_local:
            return [ok(QUIET, "nothing stands before a socket of this host: none was tried")]
        # The engine's clock tells in whole seconds.
        found = await in_thread(lambda: quiet(self._now() + 1, self.quiet_seconds))
        return [quiet_finding(found, self.quiet_seconds, self.pong.address)]

    def _now(self) -> float:
        """By the engine's clock, as far as it told."""
        now = datetime.now(UTC)
        if self.pong is None or self.pong.now is None:
            return now.timestamp()
        return (now + (self.pong.now - self.pong.asked_at)).timestamp()


def call_findings(refused: Sequence[Refusal], address: str) -> list[Finding]:
    """A fault for each obstacle, with its calls by what was said of them."""
    obstacles: dict[Obstacle, dict[str, list[str]]] = {}
    for each in refused:
        calls = obstacles.setdefault(each.obstacle, {}).setdefault(each.words, [])
        calls.append(str(each.call))
    findings = []
    for obstacle, by_words in obstacles.items():
        told = "; ".join(f"{', '.join(calls)} ({words})" for words, calls in by_words.items())
        says = f"what answers at {address} does not let through: {told}"
        findings.append(fault(CALLS, says, obstacle.value))
    return findings or [ok(CALLS, "all that a run makes get through")]


def quiet_finding(found: Quiet, wanted_seconds: float, address: str) -> Finding:
    """What so long a connection means; some proxies forget one without telling either end."""
    lasted = f"{found.seconds:.0f} s"
    if found.is_ended and found.seconds >= wanted_seconds - 2:
        says = f"one to {address} lasted {lasted}; longer was not tried"
        if wanted_seconds < _COMMON_SECONDS:
            says += f": --quiet-seconds {_COMMON_SECONDS} tries the time-outs of most proxies"
        return ok(QUIET, says)
    how = f"cut after {lasted}" if found.seconds < wanted_seconds - 2 else "forgotten on its way"
    says = f"one to {address} was {how}, and should last {wanted_seconds:g} s"
    mend = (
        "raise the time-outs of the proxy for client, server and tunnel: a task may be quiet for "
        "as long as it runs; until then, each cut costs a run a reconnect"
    )
    return warning(QUIET, says, mend)


def clock_finding(name: str, whose: str, theirs: datetime | None, ours: datetime) -> Finding:
    """What the difference between two clocks means; theirs tells whole seconds."""
    if theirs is None:
        return skipped(name, f"{whose} tells no time")
    apart = theirs - ours
    if abs(apart) <= _CLOCKS_APART:
        return ok(name, f"{whose} and this one agree")
    which = "ahead of" if apart > timedelta(0) else "behind"
    says = f"the clock of {whose} is {abs(apart).total_seconds():.0f} s {which} this one's"
    mend = "set both by NTP: time limits, expiry and the order of logs go by these clocks"
    return fault(name, says, mend)


async def check_tasks(interface: str = "") -> Sequence[Finding]:
    """Run two small tasks as any task is run, in folders of their own; `interface` is that of the
    network that they share."""
    host = HostSettings.from_environment()
    with without_leftovers(host.workdir), disable_run_logger():
        found = await _run_limits_task(host, interface)
        if found[0].level is Level.FAULT:
            return found
        ended = await _run_task(host, probe.memory_task(host.helper_image))
        return [*found, probe.memory_kill_finding(ended.outcome)]


async def _run_limits_task(host: HostSettings, interface: str) -> list[Finding]:
    words = uuid4().hex, uuid4().hex
    ended = await _run_task(host, probe.limits_task(host.helper_image, words[1]), words[0])
    image = probe.image_finding(ended.outcome, host.helper_image)
    if image.level is Level.FAULT:
        return [image]
    where = f"{host.workdir} ({host.workspace_volume or 'bind mount'})"
    same = probe.workspace_finding(ended, words, where)
    if same.level is Level.FAULT:
        return [same, image]
    if ended.not_reclaimed:
        mend = "see MOONMIND_HELPER_IMAGE and files of any owner in docs/operating.md"
        same = warning(probe.WORKSPACE, ended.not_reclaimed, mend)
    free_bytes = int(ended.told.get("disk_kib") or 0) * 1024
    room = room_finding(ROOM, "the disk of the engine's images and containers", free_bytes)
    metadata = probe.metadata_finding(ended.told, interface)
    return [same, image, probe.limits_finding(ended.told), metadata, room]


async def _run_task(host: HostSettings, payload: object, word: str = "") -> probe.Ended:
    """Run a task that finds `word` in its folder; nothing of it is left."""
    run = Run(str(uuid4()), attempt=1, worker=host.worker, now=datetime.now(UTC))
    workspace = Workspace(host.workdir, run.job_id, host.workspace_volume)
    spec = compile_spec(parse(payload), Policy(), workspace.mount, run, default_timeout_seconds=30)
    options = execution.RunOptions(
        pull_options=PullOptions(tries=1), wait=EngineWait(_PATIENCE_SECONDS)
    )
    output, not_reclaimed = _Capture(), None

    def fill() -> None:
        workspace.create(spec.artifacts_subdir)
        (workspace.repo / "word").write_text(word)

    try:
        await asyncio.to_thread(fill)
        async with open_engine() as engine:
            outcome = await execution.run(engine, spec, output, options)
            if outcome.name is not OutcomeName.IMAGE_ERROR:
                not_reclaimed = await reclaim(engine, workspace, spec)
        answer = await asyncio.to_thread(_read_if_there, workspace.repo / "answer")
    finally:
        await asyncio.to_thread(workspace.remove)
    told = probe.answers(output.decode(errors="replace"))
    return probe.Ended(outcome, told, answer, not_reclaimed)


def _read_if_there(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


class _Capture(bytearray):
    """Keeps what a task prints, which is little."""

    def write(self, chunk: bytes) -> None:
        self.extend(chunk)
