"""A client of Prefect's API: its address, a sentence for each of its failures, and retries."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError
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
