"""The places that files can be uploaded to: any file system of fsspec, any block of Prefect's.

Blocking, for several threads at a time.
"""

import asyncio
import hashlib
import inspect
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from functools import cache, partial
from typing import IO, Any, cast
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.spec import AbstractBufferedFile
from prefect.blocks.abstract import ObjectStorageBlock
from prefect.blocks.core import Block
from prefect.filesystems import LocalFileSystem, RemoteFileSystem, WritableFileSystem
from pydantic import Secret, SecretStr

from blocks.reading import reason
from blocks.storage import ArtifactStorage
from flows.errors import StorageError
from flows.masking import Masker
from flows.outputs.s3 import S3, bounded_s3
from flows.text import one_line

# What S3 takes for a part at least; of a file, so much is in memory at a time.
PART_BYTES = 5 * 1024**2
_SAID = 500
# Less than what is read of S3's errors, where a secret may be cut.
_MAX_MASKED = 32 * 1024
# S3 takes 10,000.
_PARTS = 9000
# Of a block that takes files whole only.
_WHOLE_BYTES = 256 * 1024**2
# Of one upload, for memory's sake: files that take some. Not of all together: a thread that hangs
# in a storage would keep its place for ever.
_LARGE_BYTES = 1024**2


class Stopped(Exception):
    """The upload is over before this file is."""


class HashingReader:
    """A file that is read once, in order; knows how much that was and its checksum."""

    def __init__(
        self, file: IO[bytes], expected_bytes: int, is_stopped: Callable[[], bool]
    ) -> None:
        self.expected_bytes = expected_bytes
        self.size_bytes = 0
        self._file = file
        self._is_stopped = is_stopped
        self._sha256 = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def read(self, limit: int = -1) -> bytes:
        """The next bytes, fewer than `limit` only at the end. Raises `Stopped` after the upload."""
        if self._is_stopped():
            raise Stopped
        data = self._file.read(limit)
        self._sha256.update(data)
        self.size_bytes += len(data)
        return data


class FsspecStore:
    """A URL of fsspec's. Raises `StorageError` where its protocol cannot be had.

    `address` says where it is, without credentials; no error may show `secrets`.
    """

    def __init__(
        self, url: str, options: Mapping[str, Any], certificates: str | None = None
    ) -> None:
        self.address = url
        self.secrets = secrets_in(options)
        self._fs = _file_system(url, _believing(certificates, url, options))
        self._base = self._fs._strip_protocol(url).rstrip("/")
        self._large = threading.BoundedSemaphore(8)
        self._make_folder = cache(partial(self._fs.makedirs, exist_ok=True))

    def put(self, key: str, source: HashingReader) -> None:
        """Store all of `source` at `<address>/<key>`, in place of what was there."""
        path = f"{self._base}/{key}"
        if not isinstance(self._fs, AsyncFileSystem):
            self._make_folder(path.rpartition("/")[0])
        with self._large if source.expected_bytes > _LARGE_BYTES else nullcontext():
            if source.expected_bytes > PART_BYTES:
                self._put_in_parts(path, source)
            else:
                self._fs.pipe_file(path, source.read(PART_BYTES))

    def has(self, key: str, size_bytes: int) -> bool:
        """Whether something of that size is there, as far as the place can be asked."""
        try:
            return bool(self._fs.info(f"{self._base}/{key}")["size"] == size_bytes)
        except FileNotFoundError:
            return False

    def remove(self, key: str) -> bool:
        """Remove what was put there; false where the place has no way to."""
        self._fs.rm_file(f"{self._base}/{key}")
        return True

    def close(self) -> None:
        if session := getattr(self._fs, "_s3", None):
            # Otherwise the garbage collector would have to.
            sync(self._fs.loop, session.close)

    def _put_in_parts(self, path: str, source: HashingReader) -> None:
        part_bytes = max(PART_BYTES, -(-source.expected_bytes // _PARTS))
        target = self._fs.open(path, "wb", block_size=part_bytes)
        try:
            while data := source.read(1024**2):
                target.write(data)
        except BaseException:
            _give_up(target)
            raise
        target.close()


class BlockStore:
    """A writable file system block, which takes whole files only, or an object storage's."""

    def __init__(self, block: WritableFileSystem | ObjectStorageBlock, address: str) -> None:
        self.address = address
        self.secrets = secrets_in(block)
        self._block = block
        self._whole = threading.Lock()

    def put(self, key: str, source: HashingReader) -> None:
        if isinstance(self._block, ObjectStorageBlock):
            _settled(self._block.upload_from_file_object(cast(Any, source), key))
            return
        if source.expected_bytes > _WHOLE_BYTES:
            raise StorageError(
                f"the block {self.address} takes whole files only, and this one is larger than "
                f"{_WHOLE_BYTES // 1024**2} MiB: use a URL, or a block that streams"
            )
        with self._whole if source.expected_bytes > PART_BYTES else nullcontext():
            _settled(self._block.write_path(key, source.read()))

    def has(self, key: str, size_bytes: int) -> bool:
        return True

    def remove(self, key: str) -> bool:
        return False

    def close(self) -> None:
        return


Store = FsspecStore | BlockStore


async def open_store(storage: ArtifactStorage, certificates: str | None = None) -> Store:
    """The place that the block names; `certificates` is a bundle that its server's is held against.
    Raises `StorageError`, in one sentence."""
    if storage.url:
        return FsspecStore(storage.url, storage.options.get_secret_value(), certificates)
    name = storage.block or ""
    try:
        block: Block = await Block.aload(name)
    except Exception as error:
        raise StorageError(
            f"the block {name} cannot be had ({reason(error)}): check its name, and that "
            "the package that has its type is installed on this worker"
        ) from error
    if isinstance(block, LocalFileSystem):
        base = os.path.abspath(os.path.expanduser(block.basepath or "."))
        return FsspecStore(f"file://{base}", {})
    if isinstance(block, RemoteFileSystem):
        return _remote_store(block, certificates)
    if isinstance(block, (WritableFileSystem, ObjectStorageBlock)):
        return BlockStore(block, name)
    raise StorageError(f"the block {name} is no writable file system: name one that is")


def explain(error: BaseException, secrets: Iterable[str]) -> str:
    """What a place said, on one line and without the secrets."""
    said = f"{type(error).__name__}: {error}"
    return one_line(Masker(secrets).beginning(said, _MAX_MASKED), _SAID)


def secrets_in(options: object) -> set[str]:
    """Every text in the options, or in a block's secret fields, that may be a secret."""
    if isinstance(options, str):
        is_plain_url = "://" in options and "@" not in options and "?" not in options
        return {options} if len(options) >= 6 and not is_plain_url else set()
    if isinstance(options, (Secret, SecretStr)):
        return secrets_in(options.get_secret_value())
    if isinstance(options, Block):
        fields = (getattr(options, name) for name in type(options).model_fields)
        options = [each for each in fields if isinstance(each, (Block, Secret, SecretStr))]
    if isinstance(options, Mapping):
        options = list(options.values())
    return set().union(*map(secrets_in, options)) if isinstance(options, list) else set()


def _file_system(url: str, options: Mapping[str, Any]) -> Any:
    protocol = urlsplit(url).scheme
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        raise StorageError(
            f"the protocol {protocol} of {url} needs a Python package that this worker lacks "
            f"({explain(error, ())}): install it beside this one, or for S3 "
            "moonmind-container-runner[s3]"
        ) from error
    try:
        # Not from the cache: the options may have changed, and what is closed here is ours.
        told = {**kind._get_kwargs_from_urls(url), **options, "skip_instance_cache": True}
        return kind(**(bounded_s3(told) if protocol in S3 else told))
    except Exception as error:
        said = explain(error, secrets_in(options))
        raise StorageError(f"the options for {url} are not valid ({said}): correct them") from error


def _believing(certificates: str | None, url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with certificates for S3's client, which knows none of the system's; what they
    say themselves counts more."""
    if certificates is None or urlsplit(url).scheme not in S3:
        return dict(options)
    client = {"verify": certificates, **(options.get("client_kwargs") or {})}
    return {**options, "client_kwargs": client}


def _remote_store(block: RemoteFileSystem, certificates: str | None) -> FsspecStore:
    """With the credentials of the block's URL in the options, where nobody is shown them."""
    parts = urlsplit(block.basepath)
    named = {"username": parts.username, "password": parts.password}
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    options = {**{key: value for key, value in named.items() if value}, **block.settings}
    return FsspecStore(place.geturl().rstrip("/"), options, certificates)


def _give_up(target: Any) -> None:
    """Give a half-written file up, where it can be, so that its end does not complete it."""
    with suppress(Exception):
        if not isinstance(target, AbstractBufferedFile):
            target.close()
            return
        # As fsspec does itself with one that is over.
        target.closed = True
        target.discard()


def _settled(result: Any) -> None:
    """A block's methods are asynchronous, or become so."""

    async def wait() -> None:
        await result

    if inspect.isawaitable(result):
        asyncio.run(wait())
