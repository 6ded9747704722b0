"""Translate what docker-py and its HTTP client raise into `EngineError`s, all of it once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import docker.errors
import requests.exceptions
import urllib3.exceptions
from docker.constants import DEFAULT_UNIX_SOCKET

from flows.errors import ContainerGone, EngineError, EngineRefused, EngineUnavailable

# docker-py lets requests' and plain socket errors through and, where it reads a stream raw,
# urllib3's.
_UNAVAILABLE = (
    docker.errors.DockerException,
    docker.errors.StreamParseError,
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    urllib3.exceptions.ProxySchemeUnsupported,
    OSError,
)


class NotFound(EngineError):
    """The engine has no such object."""


@contextmanager
def translated(doing: str, container: str | None = None) -> Iterator[None]:
    """Raise only `EngineError`s from the block; `doing` completes "Docker failed while …".

    Where it needs a `container`, one that is missing was removed by somebody else.
    """
    try:
        yield
    except docker.errors.NotFound as error:
        if container is not None:
            raise ContainerGone(
                f"the container {container} is gone: somebody else removed it while it was in use"
            ) from error
        raise NotFound(f"Docker has no such object while {doing}: {said(error)}") from error
    except docker.errors.APIError as error:
        raise _api_error(error, doing) from error
    except _UNAVAILABLE as error:
        raise EngineUnavailable(
            f"Docker at {address()} does not answer while {doing}: {_reason(error)}; check that "
            "the engine runs, that DOCKER_HOST names it, and that this worker may use it"
        ) from error


def address() -> str:
    """Where the engine of this process is."""
    return os.environ.get("DOCKER_HOST") or DEFAULT_UNIX_SOCKET.replace("http+unix", "unix")


def said(error: docker.errors.APIError) -> str:
    """The engine's own words, without the client's wrapping."""
    return str(error.explanation or error).strip().rstrip(".")


def _api_error(error: docker.errors.APIError, doing: str) -> EngineError:
    status, words = error.status_code, said(error)
    if status == 409 and "is already in use" in words:
        # A container that is not this task's: no fault of the payload, so nothing refused.
        return EngineError(f"Docker refused while {doing}: {words}")
    if status is not None and 400 <= status < 500:
        return EngineRefused(f"Docker refused while {doing}: {words}; {_advice(words)}")
    return EngineUnavailable(f"Docker failed while {doing}: {words}")


def _advice(words: str) -> str:
    if "CPUs" in words:
        return "lower task.container.resources.cpus, or send the task to a larger host"
    return "task.container asks for what this engine will not do"


def _reason(error: BaseException) -> str:
    """What the system said, which the clients wrap several times over; else their own words."""
    reason = str(next(iter(error.args), type(error).__name__))
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError):
            reason = inner.strerror or str(inner)
        wrapped = (argument for argument in inner.args if isinstance(argument, BaseException))
        inner = next(wrapped, inner.__cause__)
    return reason.rstrip(".")
