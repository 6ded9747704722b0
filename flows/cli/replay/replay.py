"""Run a recorded task again on this machine, by the code that runs tasks, apart from all workers.

A replay is a job of its own, with an id and a folder of its own. What is kept of it carries a label
and a date after which any sweep removes it.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from prefect.logging import disable_run_logger

from flows.attempt import Prepared
from flows.cli.replay.given import require_named
from flows.cli.replay.recording import LABEL_REPLAY, Recording, Say, marker, remove
from flows.engine.contract import Engine, Sink
from flows.engine.images.auth import Login
from flows.engine.images.progress import PullObserver
from flows.engine.images.pull import PullOptions
from flows.engine.selection import open_engine
from flows.engine.types import Image
from flows.errors import EngineError, Fault, HostMisconfigured, PayloadError
from flows.masking import Masker
from flows.outcome import Outcome
from flows.payload.compiler import compile_spec
from flows.payload.image_reference import ImageName
from flows.payload.models import TaskPayload
from flows.payload.parse import parse, runnable
from flows.payload.policy import Policy
from flows.payload.policy_check import require_allowed
from flows.payload.repository import Remote
from flows.runtime import credentials, execution, surroundings
from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.checkout_access import open_checkout
from flows.runtime.collect import collect_results
from flows.runtime.context import Job
from flows.runtime.engine_wait import EngineWait
from flows.runtime.observer import Absences, Observer
from flows.runtime.prepare import Decided
from flows.runtime.store import AttemptStore
from flows.settings import HostSettings
from flows.spec import LABEL_EXPIRES_AT, ContainerSpec, Run
from flows.workspace.folder import Workspace
from flows.workspace.logs import RunnerLog

KEPT_FOR = timedelta(days=1)
Write = Callable[[bytes], object]


class _SpokenPull(PullObserver):
    """Tells a person of a pull."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def say(self, sentence: str) -> None:
        self._say(f"{sentence}.")


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of replays, its volume, whether a server's blocks can be read, and the values of
    secrets that this machine's user gave."""

    root: Path
    volume: str
    has_blocks: bool
    given: Mapping[str, str] = field(default_factory=dict, repr=False)

    async def policy(self) -> Policy:
        """The rules of the server, or the built-in ones."""
        return await surroundings.policy_in_force() if self.has_blocks else Policy()

    async def pull_options(self, say: Say) -> PullOptions:
        """How the image is pulled: with the server's log-ins, if it has any."""
        policy = await self.policy()

        async def login(registry: str) -> Login | None:
            return await credentials.registry_login(registry, policy) if self.has_blocks else None

        return PullOptions(observer=_SpokenPull(say), login_to=login)

    async def remote(self, payload: TaskPayload, say: Say) -> Remote | None:
        """The repository, with its credentials where they can be had."""
        block = payload.repository_credentials
        if payload.repository and block and not self.has_blocks:
            say(f"The block {block} cannot be read here: git uses the credentials of this user.")
            payload = payload.model_copy(update={"auth": None})
        return await credentials.remote_of(payload)

    async def secret_values(self, blocks: Mapping[str, str], policy: Policy) -> dict[str, str]:
        """Of each variable: what an option gave for it, else what its block holds."""
        require_named(self.given, blocks)
        values, faults = dict(self.given), []
        for name, block in blocks.items():
            if name in values:
                continue
            try:
                values[name] = await self._saved(name, block, policy)
            except (PayloadError, HostMisconfigured) as error:
                faults.append(_not_given(name, block, error))
        if faults:
            raise PayloadError(faults)
        return values

    async def _saved(self, name: str, block: str, policy: Policy) -> str:
        if not self.has_blocks:
            raise HostMisconfigured("no server has the block")
        found = await credentials.container_secrets({name: block}, policy.allowed_url_secrets)
        return found[name]


def _not_given(name: str, block: str, error: PayloadError | HostMisconfigured) -> Fault:
    """Why a secret has no value here, and the options that give it one."""
    options = f"--secret {name}, from this environment's variable {name}, or by --secret-file "
    if isinstance(error, PayloadError):
        said = f"{error.faults[0].message}; or give a value by {options}{name}=FILE"
    else:
        said = (
            f"the value of the Secret block {block!r} cannot be read here: give one by {options}"
            f"{name}=FILE, or set PREFECT_API_URL to the server that has the block"
        )
    return Fault(f"task.container.secrets.{name}", said)


@dataclass(frozen=True, slots=True)
class Replayed:
    """A replay that is over; `is_kept` where its container and folder are still there. Nobody is
    to see the values of the variables that are `hidden`."""

    spec: ContainerSpec
    workspace: Workspace
    outcome: Outcome
    is_kept: bool
    hidden: tuple[str, ...] = ()


async def replay(
    recording: Recording, place: Place, write: Write, say: Say, *, keep: bool
) -> Replayed:
    """Run it to its end. Raises `ContainerTaskError` where it cannot begin."""
    decided, secrets = await _prepare(recording, place, say, keep=keep)
    spec, workspace, masker = decided.spec, decided.workspace, decided.masker
    store = AttemptStore(place.root, spec.job_id)
    with store.held(make=True), disable_run_logger():
        marker(place.root, spec.job_id).touch()
        observer, is_kept = _BeginObserver(), False
        try:
            prepared = await _prepared(decided, say)
            async with open_engine(decided.policy) as engine:
                job = Job(store, logging.getLogger(__name__))
                steps = _Steps(engine, job, prepared, masker)
                with _log_and_terminal(decided, write) as sink, _ctrl_c(say) as cancellation:
                    options = execution.RunOptions(
                        keep=keep,
                        cancellation=cancellation,
                        observer=observer,
                        pull_options=await place.pull_options(say),
                        secrets=secrets,
                        before_create=steps.before_create,
                        collect=steps.collect,
                        wait=EngineWait.of(spec, Absences(say)),
                    )
                    outcome = await execution.run(engine, spec, sink, options)
                is_kept = keep and await _is_found(engine, spec)
        finally:
            if not is_kept:
                await remove(store, workspace, spec, say, began=observer.began)
    shown = replace(outcome, error=outcome.error and masker.text(outcome.error))
    return Replayed(spec, workspace, shown, is_kept, (*spec.secrets, *prepared.withheld))


async def _prepare(
    recording: Recording, place: Place, say: Say, *, keep: bool
) -> tuple[Decided, Mapping[str, str]]:
    """What is run, and the values of its secrets; nothing is made yet."""
    payload = runnable(recording.pinned())
    policy = allowing(payload, recording, await place.policy())
    host, now = HostSettings.from_environment(), datetime.now(UTC)
    run = Run(str(uuid4()), 1, host.worker, now, recording.deployment)
    workspace = Workspace(place.root, run.job_id, place.volume)
    default = recording.timeout_seconds or host.timeout_seconds
    spec = compile_spec(payload, policy, workspace.mount, run, default_timeout_seconds=default)
    labels = {**spec.labels, LABEL_REPLAY: recording.job_id or "a payload"}
    if keep:
        expires = datetime.fromisoformat(labels[LABEL_EXPIRES_AT]) + KEPT_FOR
        labels[LABEL_EXPIRES_AT] = expires.isoformat()
    secrets = await place.secret_values(spec.secrets, policy)
    remote = await place.remote(payload, say)
    masker = Masker([*(remote.secrets if remote else ()), *secrets.values()])
    spec = replace(spec, labels=labels)
    return Decided(payload, policy, workspace, spec, remote, masker), secrets


def allowing(payload: TaskPayload, recording: Recording, policy: Policy) -> Policy:
    """The policy, with the very image of the run where it allows the image that was asked for."""
    require_allowed(parse(dict(recording.payload)), policy)
    # Its last spelling is that with the digest, without a tag.
    pinned = ImageName.parse(str(payload.task.container.image)).spellings()[-1]
    return policy.model_copy(update={"allowed_images": [*policy.allowed_images, pinned]})


async def _prepared(decided: Decided, say: Say) -> Prepared:
    workspace, spec, remote, commit = decided.workspace, decided.spec, decided.remote, None
    await asyncio.to_thread(workspace.create, spec.artifacts_subdir)
    if remote is not None:
        host, payload, policy = HostSettings.from_environment(), decided.payload, decided.policy
        commit = await surroundings.check_out(payload, remote, policy, workspace, host, say)
        say(f"Checked out {remote.display} at {commit}.")
    ready_ns = workspace.now_ns()
    workspace.require_workdir(spec)
    return decided.prepared(commit, 0.0, ready_ns)


class _Steps:
    """What is done before the container is created, and when it has stopped."""

    def __init__(self, engine: Engine, job: Job, prepared: Prepared, masker: Masker) -> None:
        self._engine = engine
        self._job = job
        self._prepared = prepared
        self._masker = masker

    async def before_create(self, image: Image) -> None:
        self._prepared = await open_checkout(self._engine, self._prepared, image)

    async def collect(self, outcome: Outcome) -> Outcome:
        return await collect_results(self._engine, self._job, self._prepared, self._masker, outcome)


class _BeginObserver(Observer):
    """Notes whether there can be a container."""

    began = False

    def creating(self) -> None:
        self.began = True


class _Tee:
    """Output for a person and for the log; never raises."""

    def __init__(self, log: RunnerLog, write: Write, masker: Masker) -> None:
        self._log = log
        self._write = write
        self._masked = masker.stream()

    def write(self, chunk: bytes) -> None:
        self._log.write(chunk)
        self._show(self._masked.feed(chunk))

    def end(self) -> None:
        """Show what was held back."""
        self._show(self._masked.end())

    def _show(self, chunk: bytes) -> None:
        with suppress(OSError, ValueError):
            self._write(chunk)


@contextmanager
def _log_and_terminal(decided: Decided, write: Write) -> Iterator[Sink]:
    """Takes the container's output, for a person and for `runner.log`."""
    subdir, masker = decided.spec.artifacts_subdir, decided.masker
    with RunnerLog(decided.workspace, subdir, lambda _: None, masker=masker) as log:
        tee = _Tee(log, write, masker)
        try:
            yield tee
        finally:
            tee.end()
            log.facts()


@contextmanager
def _ctrl_c(say: Say) -> Iterator[Cancellation]:
    """Ctrl-C stops the container as a cancellation does."""
    loop, cancellation = asyncio.get_running_loop(), Cancellation()

    def stop() -> None:
        say("Stopping the container.")
        cancellation.request(Reason.CANCEL)

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        yield cancellation
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _is_found(engine: Engine, spec: ContainerSpec) -> bool:
    # One that is away keeps nothing that could be looked at.
    with suppress(EngineError):
        return await engine.find(spec)
    return False
