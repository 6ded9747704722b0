"""The work of one attempt, for whoever does it: the flow, a hook after it, or a sweep.

Everything it needs of an earlier process it finds in the attempt store and on the engine.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from flows.attempt import Attempt, Executed, Prepared
from flows.engine.contract import Engine, Measured
from flows.engine.images.auth import Login
from flows.engine.images.pull import Supply
from flows.errors import ContainerTaskError, EngineError
from flows.masking import Masker
from flows.outcome import LOST, Outcome, StoppedBy, outcome_of
from flows.payload.image_reference import ImageName
from flows.report.progress import COLLECTING, RunProgress
from flows.report.progress_artifact import PROGRESS_KEY, PrefectTeller, ProgressArtifact
from flows.report.sentences import state_message
from flows.runtime import collect, execution
from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.collect import reclaim
from flows.runtime.context import Job
from flows.runtime.ending import finish
from flows.runtime.secrets import container_secrets
from flows.runtime.store import AttemptStore
from flows.runtime.surroundings import pull_options, registry_login
from flows.settings import HostSettings
from flows.spec import ContainerSpec, command_summary
from flows.workspace.folder import Workspace
from flows.workspace.logs import Journal, Logger, RunnerLog

_CUT = "runner.log may lack output: the engine could not give all of it after its connection broke"


@dataclass(frozen=True, slots=True)
class _Desk:
    """The open files of an attempt that is being worked on."""

    journal: Journal
    runner_log: RunnerLog
    masker: Masker


class _Notes(execution.Notes):
    """Keeps the attempt store ahead of what happens on the engine."""

    def __init__(
        self, store: AttemptStore, attempt: Attempt, desk: _Desk, progress: RunProgress
    ) -> None:
        self.attempt = attempt
        self._store = store
        self._desk = desk
        self._progress = progress

    def begins(self) -> None:
        self._put(replace(self.attempt, began=True))

    def runs(self, seconds_left: float, measured: Measured) -> None:
        self._progress.begin(seconds_left, measured)

    def stops(self, why: StoppedBy) -> None:
        self._put(replace(self.attempt, stopping=why))

    def collects(self) -> None:
        self._progress.goes_on(COLLECTING)

    def ends(self, outcome: Outcome) -> None:
        outcome = _masked(outcome, self._desk)
        log = self._desk.runner_log.so_far()
        ended = Executed(outcome, log, self.attempt.started_at, datetime.now(UTC))
        self._put(replace(self.attempt, executed=ended))

    def _put(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self._store.put(attempt)


async def execute_attempt(
    job: Job, attempt: Attempt, cancellation: Cancellation | None = None
) -> Attempt:
    """Run the attempt's container to its end, or take over the one that an earlier process left.

    The outcome is in the attempt store when this returns. `cancellation` ends it early. The values
    of the spec's own secrets are masked in the output, as are the job's.
    """
    spec, store, logger = attempt.prepared.spec, job.store, job.logger
    async with job.open_engine(attempt.prepared.policy) as engine:
        adopt = attempt.began and await execution.patiently(engine.find, spec)
        variables, refusal = await _variables(engine, attempt, adopt=adopt)
        secrets = *(job.secrets or ()), *variables.values()
        async with _desk(attempt, logger, secrets, anew=adopt) as desk:
            if refusal is not None:
                return await _record(store, attempt, refusal, desk)
            if attempt.began and not adopt:
                desk.journal.say(f"{spec.name} is gone")
                lost = await with_files_back(engine, attempt.prepared, LOST)
                return await _record(store, attempt, lost, desk)
            words = command_summary(attempt.prepared.shown.command)
            summary = f"{words} in {spec.image} as {spec.name}"
            desk.journal.say(f"Adopting {spec.name}" if adopt else f"Running {summary}")
            if cancellation is not None and attempt.stopping is not None:
                cancellation.request(Reason(attempt.stopping))
            say = desk.journal.say
            verdict = partial(collect.verdict, engine, store, attempt.prepared, desk.masker, logger)
            async with (
                ProgressArtifact(spec.job_id, PROGRESS_KEY, "the pull", say) as pull_progress,
                RunProgress(spec, say) as run_progress,
            ):
                notes = _Notes(store, attempt, desk, run_progress)
                supply = _pull_options(PrefectTeller(pull_progress, say), desk.runner_log, secrets)
                if adopt:
                    with suppress(EngineError):
                        # For the log's sake alone: the image is judged, the container runs.
                        await supply.login_to(ImageName.parse(spec.image).registry)
                outcome = await execution.run(
                    engine,
                    spec,
                    desk.runner_log,
                    adopt=adopt,
                    cancellation=cancellation,
                    notes=notes,
                    supply=supply,
                    secrets=variables,
                    verdict=verdict,
                )
            if outcome.results is None:
                outcome = await with_files_back(engine, attempt.prepared, outcome)
            return await _record(store, notes.attempt, outcome, desk)


async def _variables(
    engine: Engine, attempt: Attempt, *, adopt: bool
) -> tuple[Mapping[str, str], Outcome | None]:
    """The values of the attempt's secrets, or the outcome where they cannot be had."""
    spec = attempt.prepared.spec
    if adopt:
        # Its own, whatever the blocks say by now.
        return await execution.patiently(engine.secrets, spec), None
    if attempt.began:
        return {}, None
    try:
        return await container_secrets(spec.secrets), None
    except ContainerTaskError as error:
        return {}, outcome_of(error)


def _pull_options(observer: PrefectTeller, runner_log: RunnerLog, secrets: Sequence[str]) -> Supply:
    """What an image is pulled with; the password of a registry is masked from there on."""

    async def login(registry: str) -> Login | None:
        found = await registry_login(registry)
        if found is not None:
            observer.masker = Masker([*secrets, found.password])
            runner_log.mask_with(observer.masker)
        return found

    return pull_options(observer, login, HostSettings.from_environment())


async def finish_attempt(job: Job, attempt: Attempt, unfinished: Outcome) -> Attempt:
    """End an attempt that nobody will go on with; see `flows.runtime.ending`.

    Where nobody knows its secrets any more, its log stays as it is, masked.
    """
    spec, store, logger, secrets = attempt.prepared.spec, job.store, job.logger, job.secrets
    async with job.open_engine(None) as engine:
        anew = secrets is not None and await _is_there(engine, spec)
        variables = await engine.secrets(spec) if anew else {}
        masked = *(secrets or ()), *variables.values()
        async with _desk(attempt, logger, masked, anew=anew) as desk:
            sink = desk.runner_log if anew else _Nowhere()
            knows = anew or (secrets is not None and not spec.secrets)
            masker = desk.masker if knows else None
            outcome = await finish(
                engine,
                spec,
                sink,
                unfinished,
                attempt.stopping,
                partial(collect.verdict, engine, store, attempt.prepared, masker, logger),
            )
            if outcome.results is None:
                outcome = await with_files_back(engine, attempt.prepared, outcome)
            return await _record(store, attempt, outcome, desk)


class _Nowhere:
    """For output that may not be shown."""

    def write(self, chunk: bytes) -> None:
        """Drop it."""


async def _is_there(engine: Engine, spec: ContainerSpec) -> bool:
    try:
        return await engine.find(spec)
    except EngineError:
        # Whatever follows will say so.
        return False


async def prepare_again(job: Job, workspace: Workspace, spec: ContainerSpec) -> None:
    """See to it that what an earlier attempt left can be set aside and removed."""
    async with job.open_engine(None) as engine:
        if kept := await reclaim(engine, workspace, spec):
            job.logger.warning("Of an earlier attempt, %s", kept)


async def with_files_back(engine: Engine, prepared: Prepared, outcome: Outcome) -> Outcome:
    """The outcome, after the container's files are back in this worker's hands."""
    kept = await reclaim(engine, prepared.workspace, prepared.spec)
    return replace(outcome, cleanup_error=outcome.cleanup_error or kept)


@asynccontextmanager
async def _desk(
    attempt: Attempt, logger: Logger, secrets: Sequence[str], *, anew: bool
) -> AsyncIterator[_Desk]:
    workspace, spec = attempt.prepared.workspace, attempt.prepared.spec
    masker, subdir = Masker(secrets), spec.artifacts_subdir
    with (
        Journal(workspace, logger) as journal,
        RunnerLog(workspace, subdir, logger.info, anew=anew, masker=masker) as runner_log,
    ):
        yield _Desk(journal, runner_log, masker)


def _masked(outcome: Outcome, desk: _Desk) -> Outcome:
    """Without the secrets that an engine's words may quote."""
    return replace(
        outcome,
        error=outcome.error and desk.masker.text(outcome.error),
        cleanup_error=outcome.cleanup_error and desk.masker.text(outcome.cleanup_error),
    )


async def _record(store: AttemptStore, attempt: Attempt, outcome: Outcome, desk: _Desk) -> Attempt:
    outcome = _masked(outcome, desk)
    log = await asyncio.to_thread(desk.runner_log.facts)
    if not outcome.log_complete and log.error is None:
        log = replace(log, error=_CUT)
    desk.journal.say(f"Ended {outcome.name}: {state_message(outcome)}")
    desk.journal.move_to_artifacts()
    executed = Executed(outcome, log, attempt.started_at, datetime.now(UTC))
    attempt = replace(attempt, executed=executed)
    store.put(attempt)
    return attempt
