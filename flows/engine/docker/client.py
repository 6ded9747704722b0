"""How an engine is reached: over which connection, in which version of its API."""

from contextlib import closing
from typing import Any

import docker
import docker.errors
import requests
from docker.constants import DEFAULT_DOCKER_API_VERSION
from prefect_docker import DockerHost


def negotiated(host: DockerHost) -> DockerHost:
    """`host` with its engine's version in place of `auto`, with which every client asks again.

    By a ping, as the docker command does: for the versions of all its parts, which docker-py asks
    for, an engine starts two programs. Raises what docker-py and requests raise.
    """
    if host.version != "auto":
        return host
    with closing(_at(host, DEFAULT_DOCKER_API_VERSION).get_client()) as client:
        answer = client.api.get(f"{client.api.base_url}/_ping", timeout=client.api.timeout)
        try:
            require_ok(answer)
        except docker.errors.APIError as error:
            # No answer to what the caller is about to ask.
            raise docker.errors.DockerException(f"it refused to be pinged: {error}") from error
    if (version := answer.headers.get("Api-Version")) is None:
        raise docker.errors.DockerException("what answers there is no Docker Engine")
    return _at(host, version)


def is_local(client: docker.DockerClient) -> bool:
    """Whether the engine is at the other end of a socket of this host, with nobody in between."""
    return str(client.api.base_url).startswith("http+docker://localhost")


def require_ok(answer: requests.Response) -> None:
    """Raise docker-py's error for an answer that is one."""
    try:
        answer.raise_for_status()
    except requests.HTTPError as error:
        docker.errors.create_api_error_from_http_exception(error)


def _at(host: DockerHost, version: Any) -> DockerHost:
    return host.model_copy(update={"version": version})
