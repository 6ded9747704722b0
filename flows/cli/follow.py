"""A run's log from its API: every record once, however late it comes, until the run is over."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, LogFilterTimestamp
from prefect.client.schemas.objects import FlowRun, Log, WorkerStatus
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.types import DateTime

from flows.cli.console import CommandError, Output
from flows.cli.exit_status import ExitStatus
from flows.cli.outcomes import summary
from flows.cli.patience import Patience

_PAGE = 200
_POLL_SECONDS = 0.5
# Records come in batches, and their times are those of who wrote them.
_OVERLAP = timedelta(seconds=60)
# The last batch comes after the final state; Prefect's own last record is the sign that it has.
_QUIET_SECONDS = 5.0
# The sweep, once a minute, takes up a run whose process died.
_TAKEN_UP_SECONDS = 150.0
_WORKER_SECONDS = 5.0


class RunLog:
    """The records of one run; `news` gives each once."""

    def __init__(
        self, client: SyncPrefectClient, run_id: UUID, patiently: Patience | None = None
    ) -> None:
        self._client = client
        self._patiently = patiently
        self._run_id = run_id
        self._seen: set[UUID] = set()
        self._newest: DateTime | None = None

    def news(self, *, whole: bool = False) -> Iterator[Log]:
        """What has come since the last time; with `whole`, also what came with an old time."""
        since = None if whole or self._newest is None else self._newest - _OVERLAP
        for log in self._read(since):
            if log.id not in self._seen:
                self._seen.add(log.id)
                self._newest = max(self._newest or log.timestamp, log.timestamp)
                yield log

    def _read(self, since: DateTime | None) -> Iterator[Log]:
        wanted = LogFilter(
            flow_run_id=LogFilterFlowRunId(any_=[self._run_id]),
            timestamp=LogFilterTimestamp(after_=since) if since else None,
        )
        for offset in range(0, 10**9, _PAGE):
            ask = partial(self._client.read_logs, wanted, _PAGE, offset, LogSort.TIMESTAMP_ASC)
            page = self._patiently(ask) if self._patiently else ask()
            yield from page
            if len(page) < _PAGE:
                return


def follow(client: SyncPrefectClient, run: FlowRun, output: Output) -> FlowRun:
    """Show the log until the run is over; the run as it ended.

    One whose process died is over when nobody has taken it up after a while.
    """
    patiently = Patience(output)
    log, deadline = RunLog(client, run.id, patiently), _Deadline()
    waits = _Waits(client, output)
    with (
        # Prefect's own retries would wait as long, and say nothing of it.
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        nullcontext() if output.as_json else output.waiting(summary(run)) as show,
    ):
        while True:
            run = patiently(partial(_read_run, client, run.id))
            if show:
                show(summary(run))
            patiently(partial(waits.tell, run))
            news = list(log.news())
            for each in news:
                told(output, each)
            if deadline.has_passed(run, news):
                break
            time.sleep(_POLL_SECONDS)
        for each in log.news(whole=True):
            told(output, each)
    return run


def told(output: Output, log: Log) -> None:
    """Print one record."""
    output.record("log", timestamp=log.timestamp.isoformat(), level=log.level, message=log.message)
    output.output(log.message)


class _Deadline:
    """When nothing more is to be expected of a run that ended."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quiet_since = clock()

    def has_passed(self, run: FlowRun, news: list[Log]) -> bool:
        state, now = run.state, self._clock()
        if news or state is None or not state.is_final():
            self._quiet_since = now
        if state is None or not state.is_final():
            return False
        if state.is_crashed():
            return now - self._quiet_since > _TAKEN_UP_SECONDS
        last = f"Finished in state {state.name}"
        return (
            any(each.task_run_id is None and each.message.startswith(last) for each in news)
            or now - self._quiet_since > _QUIET_SECONDS
        )


class _Waits:
    """Tells once why a run does not begin, where that is known."""

    def __init__(self, client: SyncPrefectClient, output: Output) -> None:
        self._client = client
        self._output = output
        self._began = time.monotonic()
        self._told: set[str] = set()

    def tell(self, run: FlowRun) -> None:
        """Look at the run as it stands now."""
        if run.state is None or not run.state.is_scheduled():
            return
        for tag in run.tags:
            if tag.startswith("waiting for "):
                self._say(f"The run is {tag}.")
        is_late = time.monotonic() - self._began > _WORKER_SECONDS
        if is_late and run.work_pool_name and not self._has_worker(run.work_pool_name):
            self._say(
                f"No worker of the pool {run.work_pool_name} is online, so the run waits: start "
                f"one with prefect worker start --pool {run.work_pool_name}; container-task doctor "
                "tells what else it needs."
            )
            self._began = float("inf")

    def _has_worker(self, pool: str) -> bool:
        workers = self._client.read_workers_for_work_pool(pool)
        return any(worker.status is WorkerStatus.ONLINE for worker in workers)

    def _say(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._output.say(sentence)


def _read_run(client: SyncPrefectClient, run_id: UUID) -> FlowRun:
    try:
        return client.read_flow_run(run_id)
    except ObjectNotFound:
        raise CommandError(
            f"the run {run_id} is no longer on this server: somebody deleted it", ExitStatus.UNKNOWN
        ) from None
