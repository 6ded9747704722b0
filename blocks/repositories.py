"""The block in which an operator keeps what opens private repositories, of one host or path.

A type of its own, as a container is given values of Secret blocks: these are git's alone.
"""

import re
from contextlib import suppress
from typing import Annotated, Self
from urllib.parse import unquote, urlsplit

from httpx import HTTPError
from prefect import get_client
from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from blocks.reading import error_line, invalid_fields
from blocks.ssh import valid_hosts, valid_key

SLUG = "moonmind-repository-credentials"
_NAMES = {
    SLUG: "Repository Credentials",
    "secret": "Secret",
    "docker-registry-credentials": "Docker Registry Credentials",
}


class CredentialsUnusable(Exception):
    """Nobody has saved a block of that name, or what is saved makes no sense; one sentence."""


class RepositoryCredentialsUnreadable(Exception):
    """There may be such a block, and it cannot be had; `str()` is one sentence for a person."""


def _address(url: str) -> str:
    url = url.strip()
    if found := re.fullmatch(r"([\w.-]+@[\w.-]+):(?!//)/?(.*)", url):
        url = f"ssh://{found[1]}/{found[2]}"
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("https", "http", "ssh") and parts.hostname and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise ValueError(
            "takes a host, and a path if need be, such as https://github.com/team or "
            "ssh://git@github.com/team"
        )
    if parts.scheme == "ssh" and re.search(r"[\[\]]", unquote(parts.path)):
        raise ValueError("takes no bracket in the path, which git takes for a host")
    has_login = parts.password is not None or (parts.scheme != "ssh" and "@" in parts.netloc)
    if has_login or parts.query or parts.fragment:
        raise ValueError(
            "takes a host and a path alone, as it is shown to everybody: put user and token into "
            "the fields for them"
        )
    if parts.scheme == "ssh" and not re.fullmatch(r"\w[\w.-]*", parts.username or "", re.ASCII):
        raise ValueError("takes the user for ssh as well, such as ssh://git@github.com")
    return url.rstrip("/")


class RepositoryCredentials(Block):
    """Who logs in where to read private repositories; tasks name it in `auth.repoAuthRef`.

    git shows it to the host of `url` alone, for what lies below its path. No container is given it.
    """

    # Nor would an error show the values.
    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name = _NAMES[SLUG]
    _block_type_slug = SLUG
    _description = "What opens private repositories of a host; tasks name it in auth.repoAuthRef."

    url: Annotated[str, AfterValidator(_address)] = Field(
        max_length=255,
        title="URL",
        description="What the credentials are for: a host, such as https://gitlab.example.org or "
        "ssh://git@gitlab.example.org, or what lies below a path, such as https://github.com/team. "
        "They are sent nowhere else.",
    )
    username: str = Field(
        default="",
        max_length=255,
        title="User name",
        description="For https: who logs in. Empty: the user of the repository's URL, or git, "
        "which GitHub, GitLab and Azure DevOps take with any token.",
    )
    # What hides values from those who may read blocks sees no type behind `Annotated`.
    password: SecretStr | None = Field(
        default=None,
        # As of a URL's own, `flows.payload.repository.MAX_CREDENTIAL_BYTES`.
        max_length=4096,
        title="Token or password",
        description="For https: a token that may read the repositories and nothing more, or a "
        "password.",
    )
    ssh_private_key: SecretStr | None = Field(
        default=None,
        max_length=16_384,
        title="SSH private key",
        description="For ssh: a key without a passphrase that may read the repositories and "
        "nothing more, from -----BEGIN to the end of -----END.",
    )
    known_hosts: Annotated[str, AfterValidator(valid_hosts)] = Field(
        default="",
        title="Known hosts",
        description="For ssh: the public keys of the host, as lines of known_hosts. No other host "
        "is believed. Empty: what the worker's user knows.",
    )

    @field_validator("password", "ssh_private_key", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        """As it comes from a file or a clipboard; a form's empty line is no value."""
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        return (text.strip("\r\n") or None) if isinstance(text, str) else value

    @field_validator("password")
    @classmethod
    def _is_one_line(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().isprintable():
            raise ValueError("takes one line of text")
        return value

    @field_validator("ssh_private_key")
    @classmethod
    def _is_a_key(cls, value: SecretStr | None) -> SecretStr | None:
        return SecretStr(valid_key(value.get_secret_value())) if value else None

    @model_validator(mode="after")
    def _has_what_opens(self) -> Self:
        if urlsplit(self.url).scheme == "ssh":
            if self.ssh_private_key is None or self.password is not None or self.username:
                raise ValueError(
                    "takes an SSH private key for an ssh URL, which names the user, and neither "
                    "user name nor token"
                )
        elif self.password is None or self.ssh_private_key is not None or self.known_hosts:
            raise ValueError(
                "takes a token or password for an https URL, and neither SSH private key nor "
                "known hosts"
            )
        return self

    @classmethod
    async def named(cls, name: str) -> Self:
        """The saved block. Raises `CredentialsUnusable`, `RepositoryCredentialsUnreadable`."""
        try:
            return await cls.aload(name)
        except Exception as error:
            cause = error.__cause__ or error
            if isinstance(cause, ObjectNotFound):
                kind = await other_kind(name, SLUG)
                raise CredentialsUnusable(_no_such(name, kind)) from None
            if isinstance(cause, ValidationError):
                raise CredentialsUnusable(
                    f"the Repository Credentials block {name!r} is not valid "
                    f"({invalid_fields(cause)}): correct it under Blocks in the UI"
                ) from None
            raise RepositoryCredentialsUnreadable(
                f"the Repository Credentials block {name!r} cannot be read ({error_line(cause)}): "
                "check that Prefect's API answers"
            ) from error


async def other_kind(name: str, slug: str) -> str | None:
    """What a block of that name is, of another type than `slug`, among those with secrets."""
    async with get_client() as client:
        for each in _NAMES.keys() - {slug}:
            # For the sake of a better sentence alone.
            with suppress(ObjectNotFound, HTTPError):
                await client.read_block_document_by_name(name, each, include_secrets=False)
                return _NAMES[each]
    return None


def _no_such(name: str, kind: str | None) -> str:
    if kind is None:
        return (
            f"there is no Repository Credentials block named {name!r} on this server: create it "
            "under Blocks in the UI, or correct the name"
        )
    return (
        f"{name!r} is a {kind} block, and repositories are opened by blocks of the type Repository "
        f"Credentials alone: create one named {name!r} under Blocks in the UI, with URL, user and "
        f"token in fields of their own, and delete the {kind} block if nothing else needs it"
    )
