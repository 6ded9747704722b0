"""A client of Prefect's API for the commands: always of a server that somebody named, never of one
that Prefect would start for the occasion."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client

from flows.cli.console import CommandError
from flows.cli.exit_status import ExitStatus
from flows.cli.prefect_api import NO_SERVER, api_url, unreachable


@contextmanager
def errors_told() -> Iterator[None]:
    """From its block comes a `CommandError` for whatever the API does wrong; `ObjectNotFound` is
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
    """A client of the API, whose errors are those of `errors_told`."""
    with errors_told(), get_client(sync_client=True) as client:
        yield client
