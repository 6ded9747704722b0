"""Poll a flow run and its log until it is over; show each record once, however late it comes."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import LogFilter
from prefect.client.schemas.objects import FlowRun, Log, WorkerStatus
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelling
from prefect.types import DateTime

from flows.cli.console import CommandError, Console, ExitStatus
from flows.cli.prefect_api import api_url, outcome_name, retrying, run_url, summary, unreachable

_PAGE = 200
# Records come in batches, and their times are those of who wrote them.
_OVERLAP = timedelta(seconds=60)
# The last batch comes after the final state; Prefect's own last record is the sign that it has.
_QUIET_SECONDS = 5.0
# The sweep, once a minute, takes up a run whose process died.
_TAKEN_UP_SECONDS = 150.0
_WORKER_SECONDS = 5.0


class RunLog:
    """The records of one run; `news` gives each once. `read` is the client's `read_logs`."""

    def __init__(self, read: Callable[..., list[Log]], run_id: UUID) -> None:
        self._read = read
        self._run_id = run_id
        self._seen: set[UUID] = set()
        self._newest: DateTime | None = None

    def news(self, *, whole: bool = False) -> Iterator[Log]:
        """What has come since the last time; with `whole`, also what came with an old time."""
        since = None if whole or self._newest is None else self._newest - _OVERLAP
        for log in self._since(since):
            if log.id not in self._seen:
                self._seen.add(log.id)
                self._newest = max(self._newest or log.timestamp, log.timestamp)
                yield log

    def _since(self, since: DateTime | None) -> Iterator[Log]:
        wanted = {"flow_run_id": {"any_": [self._run_id]}, "timestamp": {"after_": since}}
        logs = LogFilter.model_validate(wanted)
        for offset in range(0, 10**9, _PAGE):
            page = self._read(logs, _PAGE, offset, LogSort.TIMESTAMP_ASC)
            yield from page
            if len(page) < _PAGE:
                return


def watch(
    client: SyncPrefectClient, console: Console, run: FlowRun, *, cancel_on_interrupt: bool = False
) -> int:
    """Show the run's log until it is over, and how it ended; the exit status is the outcome's."""
    goes_on = (
        f"The run goes on. Watch it again with container-task logs -f {run.id}, end it with "
        f"prefect flow-run cancel {run.id}."
    )
    try:
        try:
            ended = follow(client, run, console)
        except KeyboardInterrupt:
            if not cancel_on_interrupt:
                raise CommandError(goes_on, ExitStatus.INTERRUPTED) from None
            console.say("Cancelling the run; interrupt once more to leave it at that.")
            client.set_flow_run_state(
                run.id, Cancelling(message="Cancelled by container-task submit.")
            )
            ended = follow(client, run, console)
    except httpx.HTTPError as error:
        reason = unreachable(str(api_url()), error)
        raise CommandError(f"{reason}. {goes_on}", ExitStatus.UNREACHABLE) from error
    outcome = outcome_name(ended)
    message = ended.state.message if ended.state else None
    console.record("ended", outcome=outcome, message=message, url=run_url(run.id))
    if not console.as_json:
        console.say(summary(ended))
    return ExitStatus[outcome.name] if outcome else ExitStatus.SUCCEEDED


def follow(client: SyncPrefectClient, run: FlowRun, console: Console) -> FlowRun:
    """Show the log until the run is over, or has crashed and nobody takes it up; the last state."""
    retry = retrying(console)
    log = RunLog(partial(retry, client.read_logs), run.id)
    quiet_since = time.monotonic()
    waiting = _Waiting(client, console)
    with (
        # Prefect's own retries would wait as long, and say nothing of it.
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        nullcontext() if console.as_json else console.spinner(summary(run)) as show,
    ):
        while True:
            run = retry(_read_run, client, run.id)
            if show:
                show(summary(run))
            retry(waiting.tell, run)
            news = list(log.news())
            for each in news:
                show_record(console, each)
            if news or run.state is None or not run.state.is_final():
                quiet_since = time.monotonic()
            if _is_over(run, news, time.monotonic() - quiet_since):
                break
            time.sleep(0.5)
        for each in log.news(whole=True):
            show_record(console, each)
    return run


def show_record(console: Console, log: Log) -> None:
    console.record("log", timestamp=log.timestamp.isoformat(), level=log.level, message=log.message)
    console.log(log.message)


def _is_over(run: FlowRun, news: list[Log], quiet_seconds: float) -> bool:
    state = run.state
    if state is None or not state.is_final():
        return False
    if state.is_crashed():
        return quiet_seconds > _TAKEN_UP_SECONDS
    last = f"Finished in state {state.name}"
    is_told = any(each.task_run_id is None and each.message.startswith(last) for each in news)
    return is_told or quiet_seconds > _QUIET_SECONDS


class _Waiting:
    """Says once why a run does not begin, where that is known."""

    def __init__(self, client: SyncPrefectClient, console: Console) -> None:
        self._client = client
        self._console = console
        self._ask_from = time.monotonic() + _WORKER_SECONDS
        self._said: set[str] = set()

    def tell(self, run: FlowRun) -> None:
        if run.state is None or not run.state.is_scheduled():
            return
        for tag in run.tags:
            if tag.startswith("waiting for "):
                self._say(f"The run is {tag}.")
        pool = run.work_pool_name
        if pool and time.monotonic() > self._ask_from and not self._has_worker(pool):
            self._say(
                f"No worker of the pool {pool} is online, so the run waits: start one with prefect "
                f"worker start --pool {pool}; container-task doctor tells what else it needs."
            )
            self._ask_from = float("inf")

    def _has_worker(self, pool: str) -> bool:
        workers = self._client.read_workers_for_work_pool(pool)
        return any(worker.status is WorkerStatus.ONLINE for worker in workers)

    def _say(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self._console.say(sentence)


def _read_run(client: SyncPrefectClient, run_id: UUID) -> FlowRun:
    try:
        return client.read_flow_run(run_id)
    except ObjectNotFound:
        raise CommandError(
            f"the run {run_id} is no longer on this server: somebody deleted it", ExitStatus.UNKNOWN
        ) from None
