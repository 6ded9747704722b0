"""Where replays run: their folder, and the blocks or variables that a run needs the values of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.engine.images.auth import Login
from flows.engine.images.progress import PullObserver
from flows.engine.images.pull import PullOptions
from flows.errors import Fault, HostMisconfigured, PayloadError
from flows.payload.models import REPO_AUTH, TaskPayload
from flows.payload.policy import Policy
from flows.payload.repository import Remote
from flows.runtime import surroundings
from flows.runtime.secrets import container_secrets

Say = Callable[[str], None]


class _SpokenPull(PullObserver):
    """Tells a person of a pull."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def say(self, sentence: str) -> None:
        """Say it."""
        self._say(f"{sentence}.")


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of replays, the volume that it lies in, and whether a server's blocks can be
    read. `environment` has the values of secrets where they cannot."""

    root: Path
    volume: str
    has_blocks: bool
    environment: Mapping[str, str]

    async def policy(self) -> Policy:
        """The rules of the server, or the built-in ones."""
        return await surroundings.policy_in_force() if self.has_blocks else Policy()

    def pull_options(self, say: Say) -> PullOptions:
        """How the image is pulled: with the server's log-ins, if it has any."""

        async def login(registry: str) -> Login | None:
            return await surroundings.registry_login(registry) if self.has_blocks else None

        return PullOptions(observer=_SpokenPull(say), login_to=login)

    async def remote(self, payload: TaskPayload, say: Say) -> Remote | None:
        """The repository, with its credentials where they can be had."""
        block = payload.secret_blocks.get(REPO_AUTH)
        if payload.repository and block and not self.has_blocks:
            say(f"The block {block} cannot be read here: git uses the credentials of this user.")
            payload = payload.model_copy(update={"auth": None})
        return await surroundings.remote_of(payload)

    async def secret_values(self, blocks: Mapping[str, str]) -> dict[str, str]:
        """Of each variable: what its block holds, else what this environment has for it."""
        found = {name: await self._secret_value(name, block) for name, block in blocks.items()}
        values = {name: value for name, value in found.items() if value is not None}
        if faults := [
            Fault(
                f"task.container.secrets.{name}",
                f"the Secret block {blocks[name]!r} cannot be read here, and {name} is not set in "
                f"this environment: export {name}, or set PREFECT_API_URL to the server that has "
                "the block",
            )
            for name in found
            if name not in values
        ]:
            raise PayloadError(faults)
        return values

    async def _secret_value(self, name: str, block: str) -> str | None:
        if self.has_blocks:
            try:
                return (await container_secrets({name: block}))[name]
            except (PayloadError, HostMisconfigured):
                pass
        return self.environment.get(name)
