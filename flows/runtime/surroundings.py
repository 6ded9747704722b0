"""What a run takes from Prefect's blocks and its host: policy, repository, registry log-in, pull.

Shared by `prepare`, the attempt and the replay, which has none of the blocks where no server is.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from blocks.policy import ContainerPolicy, PolicyUnreadable
from blocks.registries import CredentialsUnreadable, login_to
from flows.engine.images.auth import Login, PrivateImages
from flows.engine.images.lock import PullLock
from flows.engine.images.progress import PullObserver
from flows.engine.images.pull import PullOptions
from flows.errors import EngineUnavailable, HostMisconfigured
from flows.payload.models import REPO_AUTH, TaskPayload
from flows.payload.policy import Policy
from flows.payload.repository import Remote
from flows.runtime.secrets import with_credentials
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
    """The payload's repository, with the credentials of the Secret block that it names.

    Raises what `flows.runtime.secrets.with_credentials` raises.
    """
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
    """How an image is pulled on this host: locked against its other processes, and with notes on
    which images only their users may have."""
    runs = host.workdir / RUNS_FOLDER
    return PullOptions(
        observer=observer,
        login_to=login,
        lock=PullLock(runs / "pulls"),
        private=PrivateImages(runs / "private-images"),
        inactivity_seconds=host.pull_inactivity_seconds,
    )
