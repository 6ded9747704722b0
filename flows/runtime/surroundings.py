"""What a run takes from Prefect's blocks and its host: policy, secrets, repository, log-in, pull.

The value of a Secret block is read at the moment of use. It goes to the container's environment, or
to git, and to the maskers of logs; to nothing that is stored.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from prefect.blocks.system import Secret
from prefect.exceptions import ObjectNotFound

from blocks.policy import ContainerPolicy, PolicyUnreadable
from blocks.registries import CredentialsUnreadable, login_to
from flows.engine.images.auth import Login, PrivateImages
from flows.engine.images.lock import PullLock
from flows.engine.images.progress import PullObserver
from flows.engine.images.pull import PullOptions
from flows.errors import EngineUnavailable, Fault, HostMisconfigured, PayloadError
from flows.payload import fields
from flows.payload.models import TaskPayload
from flows.payload.policy import Policy
from flows.payload.repository import REPO_AUTH, Remote
from flows.settings import HostSettings
from flows.workspace.folder import RUNS_FOLDER, Workspace
from flows.workspace.git import checkout


async def policy_in_force() -> Policy:
    """What the operator's block says; `HostMisconfigured` where it cannot be read."""
    try:
        return (await ContainerPolicy.in_force()).plain()
    except PolicyUnreadable as error:
        raise HostMisconfigured(str(error)) from error


async def remote_of(payload: TaskPayload) -> Remote | None:
    """The payload's repository, with the credentials of its block; raises as `with_credentials`."""
    remote, block = payload.remote, payload.secret_blocks.get(REPO_AUTH)
    return await with_credentials(remote, block) if remote and block else remote


async def check_out(
    payload: TaskPayload, remote: Remote, policy: Policy, workspace: Workspace
) -> str:
    """`git clone` the payload's branch into the workspace; the commit. Raises what git raises."""
    # No redirection may lead to a repository that the policy does not name.
    pinned = "*" not in policy.allowed_repositories
    return await checkout(remote, payload.task.git.starting_branch, workspace.repo, pinned=pinned)


async def registry_login(registry: str) -> Login | None:
    """Of the operator's block for a registry; `EngineUnavailable` where it cannot be read."""
    try:
        return await login_to(registry)
    except CredentialsUnreadable as error:
        raise EngineUnavailable(str(error)) from error


def pull_options(
    observer: PullObserver,
    login: Callable[[str], Coroutine[Any, Any, Login | None]],
    host: HostSettings,
) -> PullOptions:
    """How an image is pulled on this host: under a lock, and with notes on private images."""
    runs = host.workdir / RUNS_FOLDER
    return PullOptions(
        observer=observer,
        login_to=login,
        lock=PullLock(runs / "pulls"),
        private=PrivateImages(runs / "private-images"),
        inactivity_seconds=host.pull_inactivity_seconds,
    )


async def container_secrets(names: Mapping[str, str]) -> dict[str, str]:
    """The value for each environment variable, from the block that it names. Raises `PayloadError`
    for blocks that are missing or no use, `HostMisconfigured` where they cannot be read."""
    paths = {variable: f"task.container.secrets.{variable}" for variable in names}
    values = (_value(paths[variable], block) for variable, block in names.items())
    found = await asyncio.gather(*values, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException) and not isinstance(each, PayloadError):
            raise each
    refusals = [each for each in found if isinstance(each, PayloadError)]
    if refusals:
        raise PayloadError([fault for each in refusals for fault in each.faults])
    return {variable: str(value) for variable, value in zip(names, found, strict=True)}


async def with_credentials(remote: Remote, block: str) -> Remote:
    """`remote` with the credentials of a Secret block, which are for its host alone: a URL as in
    git's credential store, `https://user:token@github.com`. Raises as `container_secrets` does."""
    if remote.password or remote.username:
        raise _repo_auth_error(
            "is given, and the repository's URL has credentials: leave one of them out"
        )
    given = _credentials(await _value(REPO_AUTH, block))
    if given is None:
        raise _repo_auth_error(
            f"names the block {block}, whose value is not a URL such as "
            "https://user:token@github.com: correct it under Blocks in the UI"
        )
    if remote.address is None or not _covers(given, urlsplit(remote.url)):
        raise _repo_auth_error(
            f"names the block {block}, whose credentials are not for {remote.display}: name the "
            "block that is for its host"
        )
    return replace(
        remote, username=unquote(given.username or ""), password=unquote(given.password or "")
    )


async def _value(path: str, block: str) -> str:
    try:
        loaded: Any = await Secret.aload(block)
        value = loaded.get()
    except Exception as error:  # noqa: BLE001 - of an API that is away comes almost anything
        if isinstance(error.__cause__, ObjectNotFound):
            message = (
                f"there is no Secret block named {block!r} on this server: create it under Blocks "
                "in the UI, or correct the name"
            )
            raise PayloadError([Fault(path, message)]) from None
        # Not with its own words, which could show the value.
        raise HostMisconfigured(
            f"{path}: the Secret block {block!r} cannot be read ({type(error).__name__}): check "
            "that Prefect's API answers and that the block is valid"
        ) from None
    try:
        if not isinstance(value, str):
            raise ValueError("is no text")
        return fields.argument(value)
    except ValueError as error:
        message = f"the value of the Secret block {block!r} {error}: correct it in the UI"
        raise PayloadError([Fault(path, message)]) from None


def _credentials(value: str) -> SplitResult | None:
    try:
        url = urlsplit(value.strip())
        is_http = url.scheme in ("https", "http") and url.port != 0
    except ValueError:
        return None
    return url if is_http and url.hostname and url.username else None


def _covers(given: SplitResult, wanted: SplitResult) -> bool:
    """Whether credentials of one URL are for the other: of the same origin, and below its path."""
    same = (given.scheme, given.hostname, given.port) == (
        wanted.scheme,
        wanted.hostname,
        wanted.port,
    )
    path = given.path.rstrip("/")
    return same and (not path or wanted.path == path or wanted.path.startswith(f"{path}/"))


def _repo_auth_error(message: str) -> PayloadError:
    return PayloadError([Fault(REPO_AUTH, message)])
