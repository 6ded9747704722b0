"""Run a recorded task again on this machine, by the code that runs tasks, apart from all workers.

A replay is a job of its own, with an id and a folder of its own. What is kept of it carries a label
and a date after which any sweep removes it.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from prefect.logging import disable_run_logger

from flows import execution
from flows.checkout import checkout
from flows.engine import DockerEngine
from flows.engine_contract import Sink
from flows.errors import EngineError
from flows.host import HostSettings
from flows.interrupts import Interrupt
from flows.ledger import RUNS_FOLDER, Busy, Ledger
from flows.logs import RunnerLog
from flows.masking import Masker
from flows.outcomes import Outcome, StoppedBy
from flows.payload import TaskPayload, parse, require_runnable, secrets_of
from flows.policy import Policy
from flows.reclaim import reclaim, remove_left_behind
from flows.recordings import Recording
from flows.replay_place import Place, Say, policy_of, remote_of, secret_values, supply_of
from flows.repository import Remote
from flows.spec import LABEL_EXPIRES_AT, ContainerSpec, Owned, Run, compile_spec
from flows.workspace import Workspace

LABEL_REPLAY = "moonmind.replay_of"
KEPT_FOR = timedelta(days=1)

Write = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Replayed:
    """A replay that is over; `is_kept` where its container and folder are still there."""

    spec: ContainerSpec
    workspace: Workspace
    outcome: Outcome
    is_kept: bool


class _Keeping(DockerEngine):
    """An engine on which what was run stays, stopped."""

    async def destroy(self, spec: ContainerSpec) -> None:
        """Leave it as it is."""


class _Tee:
    """Output for a person and for the log; never raises."""

    def __init__(self, log: RunnerLog, write: Write, masker: Masker) -> None:
        self._log = log
        self._write = write
        self._masked = masker.stream()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._log.write(chunk)
        self._show(self._masked.feed(chunk))

    def end(self) -> None:
        """Show what was held back."""
        self._show(self._masked.end())

    def _show(self, chunk: bytes) -> None:
        with suppress(OSError, ValueError):
            self._write(chunk)


async def replay(
    recording: Recording, place: Place, write: Write, say: Say, *, keep: bool
) -> Replayed:
    """Run it to its end. Raises `ContainerTaskError` where it cannot begin."""
    raw = recording.pinned()
    payload = parse(raw)
    require_runnable(payload)
    policy = await policy_of(place)
    spec, workspace = _decided(payload, policy, recording, place, keep=keep)
    values = await secret_values(spec.secrets, place)
    remote = await remote_of(payload, place, say)
    masker = Masker([*secrets_of(raw), *values.values()])
    ledger = Ledger(place.root, spec.job_id)
    with ledger.held(make=True), disable_run_logger():
        _marker(place.root, spec.job_id).touch()
        is_kept = False
        try:
            await _fill(workspace, spec, remote, payload, say)
            async with (_Keeping if keep else DockerEngine)(policy=policy) as engine:
                engine.hand_over(values)
                with _output(workspace, spec, write, masker) as sink, _interrupts(say) as interrupt:
                    outcome = await execution.run(
                        engine, spec, sink, interrupt=interrupt, supply=supply_of(place, say)
                    )
                is_kept = keep and await _is_there(engine, spec)
            return Replayed(spec, workspace, outcome, is_kept)
        finally:
            if not is_kept:
                await _remove(workspace, spec)
                ledger.forget()


async def clean(root: Path, volume: str, host: HostSettings) -> list[str]:
    """Remove what replays left on the engine and in `root`; what was removed, a sentence each.

    Replays that are still running stay.
    """
    removed: list[str] = []
    async with DockerEngine() as engine:
        ours = [each for each in await engine.owned() if LABEL_REPLAY in each.labels]
        folder = root / RUNS_FOLDER
        jobs = {each.job_id for each in ours} | {path.stem for path in folder.glob("*.replay")}
        for job_id in sorted(jobs):
            ledger = Ledger(root, job_id)
            try:
                with ledger.held():
                    removed += await _discarded(engine, [o for o in ours if o.job_id == job_id])
                    workspace = Workspace(root, job_id, volume)
                    if workspace.folder.exists():
                        await asyncio.to_thread(workspace.remove)
                        removed.append(f"removed {workspace.folder}")
                    ledger.forget()
            except Busy:
                continue
        if removed:
            changed = {"workdir": root, "workspace_volume": volume}
            await remove_left_behind(engine, host.model_copy(update=changed))
    return removed


async def _discarded(engine: DockerEngine, owned: list[Owned]) -> list[str]:
    return [f"removed the {o.kind} {o.name}" for o in owned if await engine.discard(o)]


def _decided(
    payload: TaskPayload, policy: Policy, recording: Recording, place: Place, *, keep: bool
) -> tuple[ContainerSpec, Workspace]:
    host, now = HostSettings.from_environment(), datetime.now(UTC)
    run = Run(str(uuid4()), attempt=1, worker=host.worker, now=now)
    workspace = Workspace(place.root, run.job_id, place.volume)
    default = recording.timeout_seconds or host.timeout_seconds
    spec = compile_spec(payload, policy, workspace.mount, run, default_timeout_seconds=default)
    more = {LABEL_REPLAY: recording.job_id or "a payload"}
    if keep:
        expires = datetime.fromisoformat(spec.labels[LABEL_EXPIRES_AT]) + KEPT_FOR
        more[LABEL_EXPIRES_AT] = expires.isoformat()
    return replace(spec, labels={**spec.labels, **more}), workspace


async def _fill(
    workspace: Workspace,
    spec: ContainerSpec,
    remote: Remote | None,
    payload: TaskPayload,
    say: Say,
) -> None:
    await asyncio.to_thread(workspace.create, spec.artifacts_subdir)
    if remote is not None:
        commit = await checkout(remote, payload.task.git.starting_branch, workspace.repo)
        say(f"Checked out {remote.display} at {commit}.")
    workspace.require_workdir(spec)


@contextmanager
def _output(
    workspace: Workspace, spec: ContainerSpec, write: Write, masker: Masker
) -> Iterator[Sink]:
    """Takes the container's output, for a person and for `runner.log`."""
    path = workspace.runner_log(spec.artifacts_subdir)
    with RunnerLog(path, workspace.folder, lambda _: None, masker=masker) as log:
        tee = _Tee(log, write, masker)
        try:
            yield tee
        finally:
            tee.end()


@contextmanager
def _interrupts(say: Say) -> Iterator[Interrupt]:
    """Ctrl-C stops the container as a cancellation does."""
    loop, interrupt = asyncio.get_running_loop(), Interrupt()

    def stop() -> None:
        say("Stopping the container.")
        interrupt.request(StoppedBy.CANCEL)

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        yield interrupt
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _is_there(engine: DockerEngine, spec: ContainerSpec) -> bool:
    try:
        return await engine.find(spec)
    except EngineError:
        # One that is away keeps nothing that could be looked at.
        return False


async def _remove(workspace: Workspace, spec: ContainerSpec) -> None:
    async with DockerEngine() as engine:
        await reclaim(engine, workspace, spec)
    await asyncio.to_thread(workspace.remove)


def _marker(root: Path, job_id: str) -> Path:
    """Tells a folder of a replay from one of a worker's jobs."""
    return root / RUNS_FOLDER / f"{job_id}.replay"
