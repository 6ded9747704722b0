"""Docker's images: inspect one, pull it, and ask its registry who may read it."""

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import quote

import docker
import docker.auth
import docker.errors
import requests
import urllib3.exceptions

from flows.engine.docker.answers import MAX_READ_BYTES, require_ok
from flows.engine.docker.client import (
    Connection,
    NotFound,
    said,
    translated,
    url,
)
from flows.engine.images.auth import Login
from flows.engine.images.failures import image_error, silent
from flows.engine.images.progress import Take
from flows.engine.images.pull import ImageStore, PullRequest
from flows.engine.types import Image
from flows.errors import EngineUnavailable
from flows.payload.image_reference import ImageName
from flows.threads import in_thread

_CHUNK_BYTES = 8 * 1024
_MAX_LINE_BYTES = 256 * 1024
# Parts of a rootless engine, or of one that does not tell whether it is one.
_WITHOUT_ROOT = {"rootlesskit", "Podman Engine"}
_REMAPPED = re.compile(r"/\d+\.\d+/")


class PullConnection:
    """A connection for one request, which another thread may end at any time.

    A request that blocks cannot be cancelled, and before its answer begins there is nothing to
    close: the engine answers a pull only when the registry has. So the connection is known before
    the request goes over it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = False
        self._connection: Any = None

    def send(
        self, api: docker.APIClient, request: requests.Request, seconds: float
    ) -> requests.Response:
        """The answer, its body unread; silence is limited to `seconds`. Raises as requests do."""
        prepared = api.prepare_request(request)
        settings = api.merge_environment_settings(prepared.url, {}, True, None, None)
        self._get_through(api, prepared, settings)
        answer = api.send(prepared, timeout=(api.timeout, seconds), **settings)
        require_ok(answer)
        return answer

    def _get_through(
        self, api: docker.APIClient, prepared: requests.PreparedRequest, settings: Any
    ) -> None:
        """Make the connection that `prepared` will go over."""
        adapter: Any = api.get_adapter(f"{api.base_url}/")
        proxies = settings["proxies"]
        pool = adapter.get_connection_with_tls_context(
            prepared, settings["verify"], proxies=proxies, cert=settings["cert"]
        )
        ping = api.prepare_request(requests.Request("GET", f"{api.base_url}/_ping"))
        answer = pool.urlopen(
            "GET",
            adapter.request_url(ping, proxies),
            headers=ping.headers,
            preload_content=False,
            timeout=api.timeout,
        )
        with self._lock:
            self._connection = answer.connection
            if self._over:
                raise EngineUnavailable("the connection to Docker was hung up")
        # Once it is read, the pool has the connection back; the last one it got it gives out first.
        answer.read(MAX_READ_BYTES)
        answer.close()

    def hang_up(self) -> None:
        """End whatever is on it; never blocks, and may be called again."""
        with self._lock:
            self._over = True
            # By the object, whose number may be another connection's once its thread closes it.
            with suppress(OSError, ValueError, AttributeError):
                self._connection.sock.shutdown(SHUT_RDWR)


@dataclass(frozen=True, slots=True)
class _RegistryCall:
    """What an engine is to ask a registry for, and what its errors mean."""

    doing: str
    image: str
    login: Login | None
    inactivity_seconds: float

    @contextmanager
    def image_errors(self) -> Iterator[None]:
        """Raise what the registry, or the engine of it, says as an `ImageError`."""
        try:
            yield
        except docker.errors.APIError as error:
            words = said(error, [self.login.password] if self.login else [])
            raise image_error(self.image, words, error.status_code, doing=self.doing) from error
        except requests.exceptions.RequestException as error:
            if _is_silence(error):
                raise silent(self.image, self.inactivity_seconds, doing=self.doing) from error
            raise


class DockerImages(ImageStore):
    """The images of a Docker Engine."""

    def __init__(self, connection: Connection) -> None:
        self._docker = connection

    async def look(self, name: str) -> Image | None:
        def inspect(api: docker.APIClient) -> Image | None:
            found = api.inspect_image(name)  # type: ignore[no-untyped-call]
            return image_of(found, name) if is_named(found, name) else None

        try:
            return await self._docker.call(f"looking for the image {name}", inspect)
        except NotFound:
            return None

    async def has(self, image_id: str) -> bool:
        """Whether the image of this very id is present."""
        try:
            found = await self._docker.call(
                f"looking for the image {image_id}",
                lambda api: api.inspect_image(image_id),  # type: ignore[no-untyped-call]
            )
        except NotFound:
            return False
        return bool(found["Id"] == image_id)

    async def fetch(
        self, request: PullRequest, login: Login | None, take: Take, inactivity_seconds: float
    ) -> None:
        name = ImageName.parse(request.image)
        query = {"fromImage": name.written, "tag": name.digest or name.tag}
        if request.platform is not None:
            query["platform"] = request.platform

        def read(answer: requests.Response) -> None:
            for event in events(answer.iter_content(_CHUNK_BYTES)):
                # An engine may tell of an error after a 200.
                if words := event.get("error"):
                    raise docker.errors.APIError(str(words), explanation=str(words))
                take(event)

        call = _RegistryCall("pull", request.image, login, inactivity_seconds)
        await self._send(call, requests.Request("POST", "/images/create", params=query), read)

    async def may_read(
        self, request: PullRequest, login: Login | None, inactivity_seconds: float
    ) -> None:
        call = _RegistryCall("ask for", request.image, login, inactivity_seconds)
        path = f"/distribution/{quote(request.image, safe='/:')}/json"
        await self._send(call, requests.Request("GET", path), lambda _: None)

    async def _send(
        self,
        call: _RegistryCall,
        request: requests.Request,
        read: Callable[[requests.Response], None],
    ) -> None:
        connection = PullConnection()

        def work() -> None:
            doing = f"trying to {call.doing} the image {call.image}"
            with translated(doing), closing(self._docker.connect()) as client, call.image_errors():
                request.url = url(client.api, str(request.url))
                request.headers = _auth_header(client.api, call.image, call.login)
                with connection.send(client.api, request, call.inactivity_seconds) as answer:
                    read(answer)

        try:
            await in_thread(work)
        finally:
            connection.hang_up()


def is_named(found: Mapping[str, Any], name: str) -> bool:
    """Whether the image of an engine's inspect goes by `name`: where no image does, engines take a
    name for the beginning of an id, and what has that id may be anything."""
    asked = ImageName.parse(name)
    return any(
        asked.is_of(str(each))
        for key in ("RepoTags", "RepoDigests")
        for each in found.get(key) or []
    )


def events(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The objects of a stream of JSON lines. Raises docker-py's error for what is none, and for a
    line longer than any that an engine writes."""
    left = b""
    for chunk in chunks:
        *lines, left = (left + chunk).split(b"\n")
        if len(left) > _MAX_LINE_BYTES:
            raise docker.errors.DockerException(f"it sent a line of over {_MAX_LINE_BYTES} bytes")
        yield from map(_event, filter(bytes.strip, lines))
    if left.strip():
        yield _event(left)


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise docker.errors.DockerException("it sent a line that is no JSON object")
    return event


def image_of(found: Mapping[str, Any], name: str) -> Image:
    """An image as the engine's inspect tells it, looked for by `name`."""
    digests = [str(each) for each in found.get("RepoDigests") or []]
    repository = ImageName.parse(name).written
    digests.sort(key=lambda each: each.partition("@")[0] != repository)
    platform = "/".join(filter(None, (found.get(k) for k in ("Os", "Architecture", "Variant"))))
    config = found.get("Config") or {}
    user = str(config.get("User") or "")
    environment = dict(each.partition("=")[::2] for each in config.get("Env") or [])
    count = environment.get("GIT_CONFIG_COUNT", "")
    digest = next(iter(digests), "").partition("@")[2]
    return Image(found["Id"], digest, platform, user=user, git_config_count=count)


def numbers_users_anew(found: Mapping[str, Any], version: Mapping[str, Any]) -> bool:
    """Whether containers have a user namespace of their own, by an image's inspect and the engine's
    version: `userns-remap` has a data folder that is named for its first user and group."""
    parts = {str(each.get("Name")) for each in version.get("Components") or []}
    folders = ((found.get("GraphDriver") or {}).get("Data") or {}).values()
    return not parts.isdisjoint(_WITHOUT_ROOT) or any(
        _REMAPPED.search(str(each)) for each in folders
    )


def _is_silence(error: requests.exceptions.RequestException) -> bool:
    """Whether nothing came for too long; a body's reader wraps it in an error of another name."""
    inner = next(iter(error.args), None)
    return isinstance(error, requests.exceptions.ReadTimeout) or isinstance(
        inner, urllib3.exceptions.ReadTimeoutError
    )


def _auth_header(api: docker.APIClient, image: str, login: Login | None) -> dict[str, str]:
    """What the registry is shown: the log-in, or what docker's own configuration has for it."""
    if login is not None:
        return {"X-Registry-Auth": docker.auth.encode_header(login.as_auth_config()).decode()}
    registry, _ = docker.auth.resolve_repository_name(ImageName.parse(image).written)
    header = docker.auth.get_config_header(api, registry)
    return {"X-Registry-Auth": header.decode()} if header else {}
