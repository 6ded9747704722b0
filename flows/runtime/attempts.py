"""Execute or finish one attempt, for the flow, a hook after it, or a sweep.

What an earlier process did is found in the attempt store and on the engine.
"""

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from flows.attempt import Attempt, Executed, Prepared
from flows.engine.contract import Engine, Measured
from flows.engine.images.auth import Login
from flows.engine.images.pull import PullOptions
from flows.engine.types import Image
from flows.errors import ContainerGone, ContainerTaskError, EngineError
from flows.masking import Masker
from flows.outcome import LOST, Outcome, StoppedBy, outcome_of, unreached
from flows.payload.image_reference import ImageName
from flows.payload.policy import Policy
from flows.report.names import PULL_PROGRESS_KEY, state_message
from flows.report.progress import (
    COLLECTING,
    PrefectPullObserver,
    ProgressArtifact,
    RunProgress,
)
from flows.runtime import execution
from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.checkout_access import open_checkout
from flows.runtime.collect import collect_results, reclaim
from flows.runtime.context import Job
from flows.runtime.credentials import container_secrets, registry_login
from flows.runtime.ending import finish
from flows.runtime.engine_wait import EngineWait
from flows.runtime.execution import RunOptions
from flows.runtime.observer import Absences, Observer
from flows.runtime.store import AttemptStore
from flows.runtime.surroundings import pull_options
from flows.runtime.suspension import note_end
from flows.settings import HostSettings
from flows.spec import ContainerSpec, command_summary
from flows.text import one_line
from flows.workspace.logs import Journal, LogFacts, Logger, RunnerLog

_MAX_ERROR = 1000
_CUT = "runner.log may lack output: the engine could not give all of it after its connection broke"


@dataclass(frozen=True, slots=True)
class _OpenLogs:
    journal: Journal
    runner_log: RunnerLog
    masker: Masker
    secrets: Sequence[str] = field(repr=False)


class _StoringObserver(Observer):
    """Writes each step to the attempt store before the engine makes it."""

    def __init__(
        self, store: AttemptStore, attempt: Attempt, logs: _OpenLogs, progress: RunProgress
    ) -> None:
        self.attempt = attempt
        self._store = store
        self._logs = logs
        self._progress = progress

    def ready(self, prepared: Prepared) -> None:
        """The checkout is the container's user's to write in."""
        if prepared != self.attempt.prepared:
            self._put(replace(self.attempt, prepared=prepared))

    def creating(self) -> None:
        self._put(replace(self.attempt, began=True))

    def running(self, seconds_left: float, measured: Measured) -> None:
        self._progress.begin(seconds_left, measured)

    def stopping(self, stopped_by: StoppedBy) -> None:
        self._keep(replace(self.attempt, stopping=stopped_by))

    def collecting(self) -> None:
        self._progress.goes_on(COLLECTING)

    def ended(self, outcome: Outcome) -> None:
        log = self._logs.runner_log.so_far()
        self._keep(_with_outcome(self.attempt, _masked(outcome, self._logs.masker), log))

    def _keep(self, attempt: Attempt) -> None:
        """What is to happen happens, whether or not there is room to note it."""
        self.attempt = self._store.keep(attempt, self._logs.journal.say)

    def _put(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self._store.put(attempt)


async def execute_attempt(
    job: Job, attempt: Attempt, cancellation: Cancellation | None = None
) -> Attempt:
    """Run the attempt's container to its end, or take over the one that an earlier process left.

    The outcome is stored when this returns. `cancellation` ends it early.
    """
    spec, cancellation = attempt.prepared.spec, cancellation or Cancellation()
    async with (
        job.open_engine(attempt.prepared.policy) as engine,
        RunProgress(spec, job.logger.info) as progress,
    ):
        absences = Absences(job.logger.info, progress)
        wait = EngineWait.of(spec, absences)
        try:
            adopt = attempt.began and await wait.ask(partial(engine.find, spec))
            values, refusal = await _secret_values(engine, attempt, wait, adopt=adopt)
        except EngineError as error:
            is_gone = isinstance(error, ContainerGone)
            adopt, values, refusal = False, {}, None if is_gone else unreached(error)
        secrets = *(job.secrets or ()), *values.values()
        with _open_logs(attempt, job.logger, secrets, anew=adopt) as logs:
            absences.say = logs.journal.say
            if refusal is not None:
                return await _store_outcome(job, attempt, refusal, logs)
            if attempt.stopping is not None:
                cancellation.request(Reason(attempt.stopping))
            if attempt.began and not adopt:
                logs.journal.say(f"{spec.name} is gone")
                outcome = LOST
            else:
                attempt = note_end(job.store, attempt)
                options = RunOptions(
                    adopt=adopt,
                    is_adoptable=True,
                    paused_seconds=attempt.paused_seconds,
                    cancellation=cancellation,
                    secrets=values,
                    wait=wait,
                )
                attempt, outcome = await _run_container(
                    engine, job, attempt, logs, progress, options
                )
            outcome = await with_files_back(engine, attempt.prepared, outcome)
            return await _store_outcome(job, attempt, outcome, logs)


async def _secret_values(
    engine: Engine, attempt: Attempt, wait: EngineWait, *, adopt: bool
) -> tuple[Mapping[str, str], Outcome | None]:
    spec = attempt.prepared.spec
    if adopt:
        # Its own, whatever the blocks say by now.
        return await wait.ask(partial(engine.secrets, spec)), None
    if attempt.began:
        return {}, None
    try:
        policy = attempt.prepared.policy or Policy()
        return await container_secrets(spec.secrets, policy.allowed_url_secrets), None
    except ContainerTaskError as error:
        return {}, outcome_of(error)


async def _run_container(
    engine: Engine,
    job: Job,
    attempt: Attempt,
    logs: _OpenLogs,
    run_progress: RunProgress,
    options: RunOptions,
) -> tuple[Attempt, Outcome]:
    prepared, say = attempt.prepared, logs.journal.say
    spec, words = prepared.spec, command_summary(prepared.shown.command)
    summary = f"Running {words} in {spec.image} as {spec.name}"
    say(f"Adopting {spec.name}" if options.adopt else summary)
    async with ProgressArtifact(spec.job_id, PULL_PROGRESS_KEY, "the pull", say) as pull_progress:
        observer = _StoringObserver(job.store, attempt, logs, run_progress)
        puller = PrefectPullObserver(pull_progress, say)
        pulling = _pull_options(puller, logs, job.host, prepared.policy or Policy())
        if options.adopt:
            with suppress(EngineError):
                # For the log's sake alone: the image is decided, the container runs.
                await pulling.login_to(ImageName.parse(spec.image).registry)

        async def before_create(image: Image) -> None:
            observer.ready(await open_checkout(engine, prepared, image))

        def collect(outcome: Outcome) -> Awaitable[Outcome]:
            return collect_results(engine, job, observer.attempt.prepared, logs.masker, outcome)

        options = replace(
            options,
            observer=observer,
            pull_options=pulling,
            before_create=before_create,
            collect=collect,
        )
        outcome = await execution.run(engine, spec, logs.runner_log, options)
    return observer.attempt, outcome


def _pull_options(
    observer: PrefectPullObserver, logs: _OpenLogs, host: HostSettings, policy: Policy
) -> PullOptions:
    """What an image is pulled with; the password of a registry is masked from there on."""

    async def login(registry: str) -> Login | None:
        found = await registry_login(registry, policy)
        if found is not None:
            observer.masker = Masker([*logs.secrets, found.password])
            logs.runner_log.mask_with(observer.masker)
        return found

    return pull_options(observer, login, host)


async def finish_attempt(
    job: Job, attempt: Attempt, unfinished: Outcome, *, wait: EngineWait | None = None
) -> Attempt:
    """Stop and remove the container of an attempt that no process goes on with.

    Where nobody knows its secrets any more, its log stays as it is, masked. Raises as `finish`.
    """
    prepared, spec, known = attempt.prepared, attempt.prepared.spec, job.secrets is not None
    wait = wait or EngineWait(0.0)

    def note(stopped_by: StoppedBy) -> None:
        nonlocal attempt
        attempt = job.store.keep(replace(attempt, stopping=stopped_by), job.logger.warning)

    async with job.open_engine(None) as engine:
        anew = known and await _exists(engine, spec, wait)
        values = await wait.ask(partial(engine.secrets, spec)) if anew else {}
        with _open_logs(
            attempt, job.logger, (*(job.secrets or ()), *values.values()), anew=anew
        ) as logs:
            sink = logs.runner_log if anew else _Nowhere()
            masker = logs.masker if anew or (known and not spec.secrets) else None
            collect = partial(collect_results, engine, job, prepared, masker)
            outcome = await finish(engine, attempt, sink, unfinished, collect, wait, note)
            outcome = await with_files_back(engine, prepared, outcome)
            return await _store_outcome(job, attempt, outcome, logs)


class _Nowhere:
    """For output that may not be shown."""

    def write(self, chunk: bytes) -> None: ...


async def _exists(engine: Engine, spec: ContainerSpec, wait: EngineWait) -> bool:
    try:
        return await wait.ask(partial(engine.find, spec))
    except EngineError:
        return False  # Whatever follows will say so.


async def with_files_back(engine: Engine, prepared: Prepared, outcome: Outcome) -> Outcome:
    """The outcome, after the files of a container that has stopped, and from which nobody has
    collected, were given back to this process by `chown`."""
    if outcome.unreached or outcome.results is not None:
        return outcome
    kept = await reclaim(engine, prepared.workspace, prepared.spec)
    return replace(outcome, cleanup_error=outcome.cleanup_error or kept)


@contextmanager
def _open_logs(
    attempt: Attempt, logger: Logger, secrets: Sequence[str], *, anew: bool
) -> Iterator[_OpenLogs]:
    workspace, subdir = attempt.prepared.workspace, attempt.prepared.spec.artifacts_subdir
    masker = Masker(secrets)
    with (
        Journal(workspace, logger) as journal,
        RunnerLog(workspace, subdir, logger.info, anew=anew, masker=masker) as runner_log,
    ):
        yield _OpenLogs(journal, runner_log, masker, secrets)


def _masked(outcome: Outcome, masker: Masker) -> Outcome:
    return replace(
        outcome,
        error=outcome.error and one_line(masker.text(outcome.error), _MAX_ERROR),
        cleanup_error=outcome.cleanup_error
        and one_line(masker.text(outcome.cleanup_error), _MAX_ERROR),
    )


def _with_outcome(attempt: Attempt, outcome: Outcome, log: LogFacts) -> Attempt:
    return replace(attempt, executed=Executed(outcome, log, attempt.started_at, datetime.now(UTC)))


async def _store_outcome(job: Job, attempt: Attempt, outcome: Outcome, logs: _OpenLogs) -> Attempt:
    outcome = _masked(outcome, logs.masker)
    log = await asyncio.to_thread(logs.runner_log.facts)
    if not outcome.log_complete and log.error is None:
        log = replace(log, error=_CUT)
    logs.journal.say(f"Ended {outcome.name}: {state_message(outcome)}")
    logs.journal.move_to_artifacts()
    return job.store.keep(_with_outcome(attempt, outcome, log), logs.journal.say)
