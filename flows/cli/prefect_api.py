"""Prefect's API: its address, a sentence for each of its failures, retries, and the runs in it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings
from prefect.utilities.urls import url_for
from pydantic import ValidationError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_exponential,
)

from flows.cli.console import CommandError, Console, ExitStatus
from flows.outcome import OutcomeName
from flows.report.artifacts import recorded
from flows.report.names import FLOW_NAME, METADATA_KEY, outcome_of_state

PATIENCE_SECONDS = 90.0
# Also of what stands before a server that is away.
_AWAY = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
NO_SERVER = (
    "PREFECT_API_URL is not set, so there is no Prefect server to talk to: set it, such as with "
    "export PREFECT_API_URL=http://127.0.0.1:4200/api, or choose a profile with prefect profile use"
)
_PAGE = 200
# Of the newest runs; the API cannot look for the beginning of an id.
_PAGES = 10
_NEWEST_FIRST = FlowRunSort.EXPECTED_START_TIME_DESC
_SHOWN = 5


def api_url() -> str | None:
    """Where the API is, without credentials; None where nobody said."""
    url = get_current_settings().api.url
    return str(httpx.URL(url).copy_with(userinfo=b"")) if url else None


def run_url(run_id: object) -> str:
    """The address of a run's page in the UI."""
    return url_for("flow-run", obj_id=str(run_id)) or f"{api_url()}/flow_runs/{run_id}"


def unreachable(url: str, error: Exception) -> str:
    """Why the API gave no answer that is one, and what to do."""
    said = _detail(error)
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return (
                f"Prefect's API at {url} refuses this log-in ({status}): set "
                "PREFECT_API_AUTH_STRING to user:password, or PREFECT_API_KEY for Prefect Cloud"
            )
        return (
            f"Prefect's API at {url} failed with {status}: {said}; look into the server's log, and "
            "see whether PREFECT_API_URL ends in /api"
        )
    if isinstance(error, httpx.TransportError):
        return (
            f"Prefect's API at {url} does not answer ({said}): check that the server runs and that "
            "PREFECT_API_URL names it"
        )
    return (
        f"what answers at {url} is no API of Prefect's ({said}): check PREFECT_API_URL, which ends "
        "in /api"
    )


def _detail(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "its answer has another shape"
    if isinstance(error, PrefectHTTPStatusError):
        return " ".join(error.response.text.split())[:200]
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def api_errors() -> Iterator[None]:
    """Raises a `CommandError` for whatever the API does wrong in the block; `ObjectNotFound` is
    the caller's to explain."""
    url = api_url()
    if url is None:
        raise CommandError(NO_SERVER, ExitStatus.UNREACHABLE)
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        # What is no API of Prefect's answers with anything: a page, JSON of another shape.
        raise CommandError(unreachable(url, error), ExitStatus.UNREACHABLE) from error


@contextmanager
def connected() -> Iterator[SyncPrefectClient]:
    """A client of the API, whose errors are those of `api_errors`."""
    with api_errors(), get_client(sync_client=True) as client:
        yield client


def retrying(console: Console) -> Retrying:
    """Calls a function until the API answers, or for `PATIENCE_SECONDS`; says so once a call."""

    def tell(state: RetryCallState) -> None:
        if state.attempt_number == 1:
            console.say("Prefect's API does not answer; the run goes on, and this waits.")

    return Retrying(
        retry=retry_if_exception(_is_away),
        wait=wait_exponential(multiplier=0.5, max=5),
        stop=stop_after_delay(PATIENCE_SECONDS),
        before_sleep=tell,
        reraise=True,
    )


def _is_away(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _AWAY
    return isinstance(error, httpx.TransportError)


def find_run(client: SyncPrefectClient, name: str) -> FlowRun:
    """The one run with this id, beginning of an id, name or address in the UI. Raises
    `CommandError` where there is none, or several."""
    text = name.strip().rstrip("/").rpartition("/")[2] if "://" in name else name.strip()
    found = _matching(client, text)
    if not found:
        raise CommandError(
            f"there is no run {name!r} on this server: give its id, the beginning of its id, or "
            "its whole name, as prefect flow-run ls shows them",
            ExitStatus.UNKNOWN,
        )
    if len(found) > 1:
        ids = ", ".join(str(run.id) for run in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise CommandError(
            f"{name!r} means {len(found)} runs, {ids}{more}: give the id of one", ExitStatus.UNKNOWN
        )
    return found[0]


def outcome_name(run: FlowRun) -> OutcomeName | None:
    """The outcome by the final state alone, as files are the task's to write; None before it."""
    state = run.state
    return outcome_of_state(state.type, state.name or "") if state and state.is_final() else None


def summary(run: FlowRun) -> str:
    """The run's state and its sentence, on one line."""
    state = run.state
    if state is None:
        return "has no state yet"
    shown = str(outcome_name(run) or state.name or state.type)
    sentence = state.message or "; ".join(tag for tag in run.tags if tag.startswith("waiting for "))
    return f"{shown}: {sentence}" if sentence else shown


def metadata_of(client: SyncPrefectClient, run: FlowRun) -> dict[str, str]:
    """`run.json` of the newest attempt, without its lists; empty where there is none."""
    found = newest_artifact(client, run, METADATA_KEY)
    return recorded(found) if found else {}


def newest_artifact(client: SyncPrefectClient, run: FlowRun, key: str) -> Artifact | None:
    wanted = {"flow_run_id": {"any_": [run.id]}, "key": {"any_": [key]}}
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter.model_validate(wanted),
        sort=ArtifactSort.CREATED_DESC,
        limit=1,
    )
    return found[0] if found else None


def _matching(client: SyncPrefectClient, text: str) -> list[FlowRun]:
    try:
        run_id = UUID(text)
    except ValueError:
        named = FlowRunFilter.model_validate({"name": {"any_": [text]}})
        found = client.read_flow_runs(flow_run_filter=named, sort=_NEWEST_FIRST, limit=_PAGE)
        return found or _by_beginning(client, text.lower())
    try:
        return [client.read_flow_run(run_id)]
    except ObjectNotFound:
        return []


def _by_beginning(client: SyncPrefectClient, beginning: str) -> list[FlowRun]:
    if not re.fullmatch(r"[0-9a-f][0-9a-f-]{3,35}", beginning):
        return []
    flow = FlowFilter.model_validate({"name": {"any_": [FLOW_NAME]}})
    found: dict[UUID, FlowRun] = {}
    for offset in range(0, _PAGES * _PAGE, _PAGE):
        runs = client.read_flow_runs(
            flow_filter=flow, sort=_NEWEST_FIRST, limit=_PAGE, offset=offset
        )
        found |= {run.id: run for run in runs if str(run.id).startswith(beginning)}
        if len(runs) < _PAGE:
            break
    return list(found.values())
