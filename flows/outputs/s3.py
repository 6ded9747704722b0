"""S3's client, which reads errors whole, made to read them in bounds. Imports it at first use."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Protocols of fsspec's.
S3 = ("s3", "s3a")
_MAX_READ_BYTES = 64 * 1024


def bounded_s3(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of s3fs, with a client that reads no more of an error's body than that."""
    config = {"http_session_cls": _session_class(), **(options.get("config_kwargs") or {})}
    return {**options, "config_kwargs": config}


@dataclass(frozen=True, slots=True)
class _Told:
    """What S3's client asks of an answer, whose body is cut."""

    url: object
    status: int
    raw_headers: Iterable[tuple[bytes, bytes]]
    body: bytes

    async def read(self) -> bytes:
        return self.body


@dataclass(frozen=True, slots=True)
class _Bounded:
    """A session of aiohttp's, as far as S3's client uses one."""

    session: Any

    async def request(self, *words: Any, **named: Any) -> Any:
        answer = await self.session.request(*words, **named)
        if answer.status < 300:
            return answer
        body = b""
        async with answer:
            async for piece in answer.content.iter_chunked(_MAX_READ_BYTES):
                body += piece
                if len(body) >= _MAX_READ_BYTES:
                    # Otherwise the connection would be read to the end of it.
                    answer.close()
                    break
        return _Told(answer.url, answer.status, answer.raw_headers, body[:_MAX_READ_BYTES])


def _session_class() -> type:
    from aiobotocore.httpsession import AIOHTTPSession

    class BoundedSession(AIOHTTPSession):  # type: ignore[misc]
        async def _get_session(self, proxy_url: str | None) -> _Bounded:
            return _Bounded(await super()._get_session(proxy_url))

    return BoundedSession
