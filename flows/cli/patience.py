"""Waits for an API that is away for a while, as in a restart, while a run is watched."""

from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_exponential,
)

from flows.cli.console import Output

T = TypeVar("T")

PATIENCE_SECONDS = 90.0
# Also of what stands before a server that is away.
_AWAY = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)


class Patience:
    """Asks until there is an answer, or for so long; says once of each absence that it waits."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._is_told = False

    def __call__(self, ask: Callable[[], T]) -> T:
        """What `ask` gives; raises what it raises in the end."""
        retrying = Retrying(
            retry=retry_if_exception(is_away),
            wait=wait_exponential(multiplier=0.5, max=5),
            stop=stop_after_delay(PATIENCE_SECONDS),
            before_sleep=self._tell,
            reraise=True,
        )
        answer = retrying(ask)
        self._is_told = False
        return answer

    def _tell(self, _: RetryCallState) -> None:
        if not self._is_told:
            self._output.say("Prefect's API does not answer; the run goes on, and this waits.")
        self._is_told = True


def is_away(error: BaseException) -> bool:
    """Whether the API may be back soon."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _AWAY
    return isinstance(error, httpx.TransportError)
