"""Translate what docker-py and requests raise into this package's errors, once and completely."""

from collections.abc import Iterator
from contextlib import contextmanager

import docker.errors
import requests.exceptions

from flows.errors import ContainerGone, EngineError, EngineRefused, EngineUnavailable

# docker-py lets requests', urllib3's (as requests') and plain socket errors through.
_UNAVAILABLE = (requests.exceptions.RequestException, OSError)


class NameTaken(EngineError):
    """A container that is not this task's has the name."""


class NotFound(EngineError):
    """The engine has no such object."""


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise only `EngineError`s from the block; `doing` completes "Docker failed while …"."""
    try:
        yield
    except docker.errors.NotFound as error:
        raise NotFound(f"Docker has no such object while {doing}: {said(error)}") from error
    except docker.errors.APIError as error:
        raise _api_error(error, doing) from error
    except docker.errors.DockerException as error:
        raise EngineUnavailable(f"Docker cannot be reached while {doing}: {error}") from error
    except _UNAVAILABLE as error:
        raise EngineUnavailable(
            f"Docker does not answer while {doing} ({error}): check DOCKER_HOST and the engine"
        ) from error


@contextmanager
def container_expected(name: str) -> Iterator[None]:
    """A container that is missing here was removed by somebody else."""
    try:
        yield
    except NotFound as error:
        raise ContainerGone(
            f"the container {name} is gone: somebody else removed it while it was in use"
        ) from error


def said(error: docker.errors.APIError) -> str:
    """The engine's own words, without the client's wrapping."""
    return str(error.explanation or error).strip().rstrip(".")


def _api_error(error: docker.errors.APIError, doing: str) -> EngineError:
    status, words = error.status_code, said(error)
    if status == 409 and "is already in use" in words:
        return NameTaken(f"Docker refused while {doing}: {words}")
    if status is not None and 400 <= status < 500:
        return EngineRefused(
            f"Docker refused while {doing}: {words}; task.container asks for what this engine "
            "will not do"
        )
    return EngineUnavailable(f"Docker failed while {doing}: {words}")
