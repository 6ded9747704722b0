"""Answers of an engine that are errors: read in bounds, and put as docker-py looks for them.

requests reads a body whole before anybody sees its status. A hook of the session sees every answer
first, docker-py's own calls among them.
"""

import json
from io import BytesIO

import docker
import docker.errors
import requests
from urllib3 import HTTPResponse

# An engine, or what stands before it, may say more than anybody reads.
MAX_READ_BYTES = 64 * 1024


def bound_errors(client: docker.DockerClient) -> None:
    """Have `client` read no more of a body than that, wherever an answer is an error."""
    client.api.hooks["response"].append(_bound)


def require_ok(answer: requests.Response) -> None:
    """Raise docker-py's error for an answer that is one."""
    try:
        answer.raise_for_status()
    except requests.HTTPError as error:
        docker.errors.create_api_error_from_http_exception(error)


def _bound(answer: requests.Response, **_: object) -> None:
    # A redirection is read to its end as well.
    if answer.status_code < 300:
        return
    body = answer.raw.read(MAX_READ_BYTES, decode_content=True)
    # Ends the connection, unless that was all of it.
    answer.raw.close()
    told = BytesIO(_put(body).encode())
    answer.raw, answer.encoding = HTTPResponse(told, preload_content=False), "utf-8"


def _put(body: bytes) -> str:
    """An error as it came; JSON of any other shape than an engine's, over which docker-py falls, as
    a text."""
    text = body.decode(errors="replace").strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return f"it said {text}" if text.startswith(("{", "[")) else text
    if isinstance(found, dict) and isinstance(message := found.get("message"), str):
        return json.dumps({"message": message})
    return f"it said {text}"
