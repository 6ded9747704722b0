"""Images of a Docker Engine: looking for one, pulling it, asking its registry."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote

import docker
import docker.auth
import docker.errors
import requests
import urllib3.exceptions

from flows.engine.docker.client import Connection, require_ok, shut_down, url
from flows.engine.docker.errors import NotFound, said, translated
from flows.engine.images.auth import Login
from flows.engine.images.failures import image_error, silent
from flows.engine.images.observer import Take
from flows.engine.images.pull import PullRequest
from flows.engine.types import Image
from flows.errors import EngineUnavailable
from flows.masking import Masker
from flows.payload.image_reference import ImageName
from flows.threads import in_thread


class Line:
    """A connection of its own to the engine, which this side may hang up at any time.

    A request that blocks cannot be cancelled, and before its answer begins there is nothing to
    close either: the engine answers a pull only when the registry has answered. So the connection
    is known before the request goes over it.
    """

    def __init__(self, connection: Connection) -> None:
        self._docker = connection
        self._lock = threading.Lock()
        self._over = False
        self._connection: Any = None

    @contextmanager
    def open(self) -> Iterator[docker.APIClient]:
        """A client for one request. Blocks: use it in a thread."""
        with closing(self._docker.connect()) as client:
            yield client.api

    def send(
        self, api: docker.APIClient, request: requests.Request, seconds: float
    ) -> requests.Response:
        """The answer to `request`, whose body is still to be read.

        Raises docker-py's error for an answer that is one, and what requests raises, also where
        nothing came for so many `seconds`.
        """
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
        answer.read()

    def hang_up(self) -> None:
        """End whatever is on it; never blocks, and may be called again."""
        with self._lock:
            self._over = True
            if self._connection is not None:
                shut_down(self._connection.sock)


class DockerImages:
    """A `flows.engine.images.pull.ImageStore`."""

    def __init__(self, connection: Connection) -> None:
        self._docker = connection

    async def look(self, name: str) -> Image | None:
        """See `flows.engine.images.pull.ImageStore`."""

        def inspect() -> Mapping[str, Any]:
            with translated(f"looking for the image {name}"):
                found: Mapping[str, Any] = self._docker.api.inspect_image(name)  # type: ignore[no-untyped-call]
                return found

        try:
            return image_of(await in_thread(inspect), name)
        except NotFound:
            return None

    async def fetch(
        self, spec: PullRequest, login: Login | None, take: Take, inactivity_seconds: float
    ) -> None:
        """See `flows.engine.images.pull.ImageStore`."""
        name = ImageName.parse(spec.image)
        query = {"fromImage": name.written, "tag": name.digest or name.tag}
        if spec.platform is not None:
            query["platform"] = spec.platform

        def pull(api: docker.APIClient, line: Line) -> None:
            headers = _auth_header(api, spec.image, login)
            request = requests.Request(
                "POST", url(api, "/images/create"), params=query, headers=headers
            )
            with line.send(api, request, inactivity_seconds) as answer:
                for event in filter(bytes.strip, answer.iter_lines()):
                    _take(json.loads(event), take)

        await self._asked(spec.image, "pull", login, inactivity_seconds, pull)

    async def may_read(
        self, spec: PullRequest, login: Login | None, inactivity_seconds: float
    ) -> None:
        """See `flows.engine.images.pull.ImageStore`."""

        def ask(api: docker.APIClient, line: Line) -> None:
            path = f"/distribution/{quote(spec.image, safe='/:')}/json"
            headers = _auth_header(api, spec.image, login)
            request = requests.Request("GET", url(api, path), headers=headers)
            line.send(api, request, inactivity_seconds).close()

        await self._asked(spec.image, "ask for", login, inactivity_seconds, ask)

    async def _asked(
        self,
        image: str,
        doing: str,
        login: Login | None,
        inactivity_seconds: float,
        request: Callable[[docker.APIClient, Line], None],
    ) -> None:
        masker, line = Masker([login.password] if login else []), Line(self._docker)

        def ask(api: docker.APIClient) -> None:
            try:
                request(api, line)
            except docker.errors.APIError as error:
                words = masker.text(said(error))
                raise image_error(image, words, error.status_code, doing=doing) from error
            except requests.exceptions.RequestException as error:
                if _is_silence(error):
                    raise silent(image, inactivity_seconds, doing=doing) from error
                raise

        def work() -> None:
            with translated(f"trying to {doing} the image {image}"), line.open() as api:
                ask(api)

        try:
            await in_thread(work)
        finally:
            line.hang_up()


def image_of(found: Mapping[str, Any], name: str) -> Image:
    """An image as the engine's inspect tells it, looked for by `name`."""
    digests = [str(each) for each in found.get("RepoDigests") or []]
    repository = ImageName.parse(name).written
    digests.sort(key=lambda each: each.partition("@")[0] != repository)
    platform = "/".join(filter(None, (found.get(k) for k in ("Os", "Architecture", "Variant"))))
    return Image(found["Id"], next(iter(digests), "").partition("@")[2], platform)


def _take(event: Mapping[str, Any], take: Take) -> None:
    """Pass an event on; raise docker-py's error for one that an engine tells after a 200."""
    if words := event.get("error"):
        raise docker.errors.APIError(str(words), explanation=str(words))
    take(event)


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
