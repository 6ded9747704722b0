"""What a run takes from its host and the operator's policy: the checkout, and how it pulls."""

from collections.abc import Callable, Coroutine
from typing import Any

from blocks.policy import ContainerPolicy, PolicyUnreadable
from flows.attempt import infrastructure_pause
from flows.engine.images.auth import Login, PrivateImages
from flows.engine.images.lock import PullLock
from flows.engine.images.progress import PullObserver
from flows.engine.images.pull import PullOptions
from flows.errors import HostMisconfigured
from flows.payload.models import TaskPayload
from flows.payload.policy import Policy
from flows.payload.policy_check import repository_is_allowed
from flows.payload.repository import Remote
from flows.settings import HostSettings
from flows.units import GIB
from flows.workspace.folder import RUNS_FOLDER, Workspace
from flows.workspace.git import checkout
from flows.workspace.git_access import HostAccess
from flows.workspace.git_command import GitLimits


async def policy_in_force() -> Policy:
    """What the operator's block says; `HostMisconfigured` where it cannot be read."""
    try:
        return (await ContainerPolicy.in_force()).plain()
    except PolicyUnreadable as error:
        raise HostMisconfigured(str(error)) from error


async def check_out(
    payload: TaskPayload,
    remote: Remote,
    policy: Policy,
    workspace: Workspace,
    host: HostSettings,
    warn: Callable[[str], None],
) -> str:
    """`git clone` the payload's branch into the workspace; the commit. Raises what git raises."""
    # No redirection may lead to a repository that the policy does not name.
    pinned = "*" not in policy.allowed_repositories
    tries = payload.task.container.retry.infrastructure
    return await checkout(
        remote,
        payload.task.git.starting_branch,
        workspace.repo,
        pinned=pinned,
        host=HostAccess(host.ssh_key_file, host.ssh_known_hosts_file, host.certificates),
        allows=lambda there: repository_is_allowed(there, policy),
        limits=GitLimits(disk_bytes=int(host.checkout_max_gib * GIB)),
        pauses=[infrastructure_pause(failed) for failed in range(1, tries + 1)],
        say=warn,
    )


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
