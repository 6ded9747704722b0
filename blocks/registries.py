"""The log-ins that an operator keeps as prefect-docker's blocks: read anew whenever one is wanted.

The block's own `login` and clients are left alone: they write what they log in with to a file.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from flows.engine.images.auth import Login, registry_host  # noqa: TID251 - plain rules, as in policy.py
from flows.payload.policy_check import is_allowed  # noqa: TID251 - as above
from prefect import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect_docker import DockerRegistryCredentials  # noqa: TID251 - its fields, not its clients
from pydantic import ValidationError

from blocks.reading import error_line, invalid_fields


class CredentialsUnreadable(Exception):
    """There may be credentials, and they cannot be had; `str()` is one sentence for a person."""


async def login_to(registry: str, allowed: Sequence[str] = ("*",)) -> Login | None:
    """The log-in of the saved block for a `registry_host`, the first by name of those that the
    globs allow; None without one.

    Raises `CredentialsUnreadable` where the API does not answer or the block is not valid.
    """
    for name, data in await _saved():
        is_for_it = registry_host(str(data.get("registry_url", ""))) == registry
        if is_for_it and is_allowed([name], allowed):
            return _login(registry, name, data)
    return None


async def saved_logins() -> list[tuple[str, Login | CredentialsUnreadable]]:
    """Every saved log-in by the name of its block, or why it is none; raises as `login_to`."""
    found: list[tuple[str, Login | CredentialsUnreadable]] = []
    for name, data in await _saved():
        try:
            login = _login(registry_host(str(data.get("registry_url", ""))), name, data)
            found.append((name, login))
        except CredentialsUnreadable as error:
            found.append((name, error))
    return found


async def _saved() -> list[tuple[str, dict[str, Any]]]:
    slug = DockerRegistryCredentials.get_block_type_slug()
    try:
        async with asyncio.timeout(30.0), get_client() as client:
            found = await client.read_block_documents_by_type(slug, include_secrets=True)
    except PrefectHTTPStatusError as error:
        # Nobody has registered the type, so nobody has saved a block of it.
        if error.response.status_code == 404:
            return []
        raise _unreadable_credentials(error) from error
    except Exception as error:
        raise _unreadable_credentials(error) from error
    return sorted(((each.name or "", each.data) for each in found), key=lambda each: each[0])


def _login(registry: str, name: str, data: dict[str, Any]) -> Login:
    try:
        block = DockerRegistryCredentials.model_validate(data)
    except ValidationError as error:
        raise CredentialsUnreadable(
            f"the Docker Registry Credentials block {name} for {registry} is not valid "
            f"({invalid_fields(error)}): correct it, or delete it"
        ) from None
    return Login(registry, block.username, block.password.get_secret_value())


def _unreadable_credentials(error: Exception) -> CredentialsUnreadable:
    return CredentialsUnreadable(
        f"the Docker Registry Credentials blocks cannot be read ({error_line(error)}), so nobody "
        "knows whether this task may read its image: check that Prefect's API answers"
    )
