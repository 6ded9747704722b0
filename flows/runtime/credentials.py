"""What Prefect's blocks hold for a run: secrets of its container, what opens its repository, and
the log-ins of registries. A block is of one of these kinds, and none is used for another.

A value is read at the moment of use. It goes to the container's environment, to git or to the
engine, and to the maskers of logs; to nothing that is stored.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prefect.blocks.system import Secret
from prefect.exceptions import ObjectNotFound

from blocks.registries import CredentialsUnreadable, login_to
from blocks.repositories import (
    CredentialsUnusable,
    RepositoryCredentials,
    RepositoryCredentialsUnreadable,
    other_kind,
)
from flows.engine.images.auth import Login
from flows.errors import EngineUnavailable, Fault, HostMisconfigured, PayloadError
from flows.payload import process
from flows.payload.models import TaskPayload
from flows.payload.policy import Policy
from flows.payload.policy_check import POLICY_BLOCK, is_allowed
from flows.payload.repository import REPO_AUTH, Remote, is_url_with_login

# Of all that a container is given: a bound on the time in which a masker for it is made.
MAX_SECRETS = 128 * 1024


async def remote_of(payload: TaskPayload) -> Remote | None:
    """The payload's repository, with the credentials of its block; raises as `opened` does."""
    remote, block = payload.remote, payload.repository_credentials
    return await opened(remote, block) if remote and block else remote


async def opened(remote: Remote, block: str) -> Remote:
    """`remote` with the credentials of a Repository Credentials block, which are for its URL alone.
    Raises `PayloadError`, and `HostMisconfigured` where the block cannot be read."""
    if remote.secrets:
        raise _repo_auth_error(
            "is given, and the repository's URL has a password or a token: leave one of them out"
        )
    try:
        found = await RepositoryCredentials.named(block)
    except CredentialsUnusable as error:
        raise _repo_auth_error(str(error)) from None
    except RepositoryCredentialsUnreadable as error:
        raise HostMisconfigured(f"{REPO_AUTH}: {error}") from error
    if not remote.is_below(found.url):
        raise _repo_auth_error(
            f"names the block {block}, whose credentials are not for {remote.display} but for "
            f"{found.url}: name the block that is for it"
        )
    remote = replace(remote, below=found.url)
    if found.ssh_private_key is not None:
        key = found.ssh_private_key.get_secret_value()
        return replace(remote, ssh_key=key, known_hosts=found.known_hosts)
    password = found.password.get_secret_value() if found.password else ""
    return remote.with_login(found.username, password)


async def registry_login(registry: str, policy: Policy) -> Login | None:
    """Of the operator's block for a registry; `EngineUnavailable` where it cannot be read."""
    try:
        return await login_to(registry, policy.allowed_registry_credentials)
    except CredentialsUnreadable as error:
        raise EngineUnavailable(str(error)) from error


async def container_secrets(
    names: Mapping[str, str], url_secrets: Sequence[str] = ()
) -> dict[str, str]:
    """The value for each environment variable, from the Secret block that it names; a URL with a
    log-in only of those that the globs `url_secrets` name.

    Raises `PayloadError` for blocks that are missing or no use, `HostMisconfigured` where they
    cannot be read.
    """
    paths = {variable: f"task.container.secrets.{variable}" for variable in names}
    values = (_value(paths[variable], block, url_secrets) for variable, block in names.items())
    found = await asyncio.gather(*values, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException) and not isinstance(each, PayloadError):
            raise each
    refusals = [each for each in found if isinstance(each, PayloadError)]
    if refusals:
        raise PayloadError([fault for each in refusals for fault in each.faults])
    given = {variable: str(value) for variable, value in zip(names, found, strict=True)}
    if faults := list(_too_large(given)):
        raise PayloadError(faults)
    return given


def _too_large(given: Mapping[str, str]) -> Iterator[Fault]:
    for variable, value in given.items():
        try:
            process.variable(variable, value)
        except ValueError as error:
            yield Fault(f"task.container.secrets.{variable}", str(error))
    if sum(map(len, {*given.values()})) > MAX_SECRETS:
        yield Fault(
            "task.container.secrets",
            f"has values of more than {MAX_SECRETS} characters together, the longest in "
            f"{max(given, key=lambda variable: len(given[variable]))}: put it into a file",
        )


async def _value(path: str, block: str, url_secrets: Sequence[str]) -> str:
    value = await _saved(path, block)
    if fault := _fault_in(value, block, url_secrets):
        raise PayloadError([Fault(path, fault)])
    return str(value)


async def _saved(path: str, block: str) -> object:
    try:
        loaded: Any = await Secret.aload(block)
        return loaded.get()
    except Exception as error:  # noqa: BLE001 - of an API that is away comes almost anything
        if isinstance(error.__cause__, ObjectNotFound):
            raise PayloadError([Fault(path, await _no_such_secret(block))]) from None
        # Not with its own words, which could show the value.
        raise HostMisconfigured(
            f"{path}: the Secret block {block!r} cannot be read ({type(error).__name__}): check "
            "that Prefect's API answers and that the block is valid"
        ) from None


def _fault_in(value: object, block: str, url_secrets: Sequence[str]) -> str | None:
    try:
        if not isinstance(value, str):
            raise ValueError("is no text")
        process.argument(value)
    except ValueError as error:
        return f"the value of the Secret block {block!r} {error}: correct it in the UI"
    if not is_url_with_login(value) or is_allowed([block], url_secrets):
        return None
    return (
        f"the value of the Secret block {block!r} is a URL with a log-in, as opens a repository, "
        "and no container is given that: name it in auth.repoAuthRef, as a block of the type "
        "Repository Credentials; or, where the container needs the URL, have an operator add the "
        f"block to allowed_url_secrets in {POLICY_BLOCK}"
    )


async def _no_such_secret(block: str) -> str:
    if kind := await other_kind(block, "secret"):
        return (
            f"{block!r} is a {kind} block, and no container is given what one holds: name a Secret "
            "block"
        )
    return (
        f"there is no Secret block named {block!r} on this server: create it under Blocks in the "
        "UI, or correct the name"
    )


def _repo_auth_error(message: str) -> PayloadError:
    return PayloadError([Fault(REPO_AUTH, message)])
