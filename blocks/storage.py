"""The block in which an operator says where results go, and how long they stay on their host."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import AfterValidator, Field, model_validator

from blocks.reading import saved_or_default


class StorageUnreadable(Exception):
    """There is a storage, or may be, and it cannot be had; `str()` is one sentence for a person."""


def _plain_url(url: str) -> str:
    parts = urlsplit(url)
    if not parts.scheme or "://" not in url or not (parts.netloc or parts.path.strip("/")):
        raise ValueError("takes a protocol and a path, such as s3://bucket/prefix")
    if "::" in url:
        raise ValueError("takes one protocol, not a chain of them")
    if parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            "takes no password, no query and no fragment, as it is shown to everybody: put "
            "credentials into the options"
        )
    return url.rstrip("/")


def _reference(block: str) -> str:
    slug, _, name = block.partition("/")
    if not slug or not name or "/" in name:
        raise ValueError("takes a block's type and name, such as remote-file-system/results")
    return block


class ArtifactStorage(Block):
    """Where results go, and how long job folders stay on the hosts that share this block.

    Nothing needs registering: without a saved block named `default` results stay in the job
    folders, for ever.
    """

    _block_type_name = "Artifact Storage"
    _block_type_slug = "moonmind-artifact-storage"
    _description = "Where the results of container tasks go, and how long job folders are kept."

    url: Annotated[str, AfterValidator(_plain_url)] | None = Field(
        default=None,
        max_length=255,
        title="URL",
        description=(
            "Where results are uploaded to, as fsspec has it: s3://bucket/prefix, "
            "file:///srv/results. Empty: they stay in the job folder only."
        ),
    )
    options: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        title="Options",
        description=(
            "Arguments of the URL's fsspec file system, credentials and endpoint among them; for "
            'S3 {"key": "…", "secret": "…", "endpoint_url": "…"}.'
        ),
    )
    block: Annotated[str, AfterValidator(_reference)] | None = Field(
        default=None,
        max_length=255,
        title="File system block",
        description=(
            "In place of a URL: a writable file system block of Prefect, as type and name: "
            "remote-file-system/results."
        ),
    )
    parallel_uploads: int = Field(
        default=8,
        ge=1,
        le=64,
        title="Parallel uploads",
        description="Files of one run that are sent at a time.",
    )
    max_upload_gib: float = Field(
        default=100,
        gt=0,
        title="Largest upload (GiB)",
        description=(
            "What one attempt may upload in all; files that do not fit in are left out, and the "
            "manifest says so."
        ),
    )
    keep_days: float | None = Field(
        default=None,
        ge=0,
        title="Keep job folders (days)",
        description="Job folders of runs that ended longer ago are removed. Empty: kept for ever.",
    )
    keep_gib: float | None = Field(
        default=None,
        ge=0,
        title="Keep job folders (GiB)",
        description=(
            "While the job folders of ended runs take more on a host, the oldest are removed. "
            "Empty: no limit."
        ),
    )

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if self.url and self.block:
            raise ValueError("takes a url or a block, not both")
        return self

    @property
    def is_remote(self) -> bool:
        return bool(self.url or self.block)

    @classmethod
    async def in_force(cls) -> Self:
        """The saved block `default`, or the built-in defaults; else raises `StorageUnreadable`."""
        return await saved_or_default(cls, StorageUnreadable)
