"""What a replay takes from its surroundings: rules, secrets and log-ins, of a server or of here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.engine.images.auth import Login
from flows.engine.images.observer import PullObserver
from flows.engine.images.pull import PullOptions
from flows.errors import Fault, HostMisconfigured, PayloadError
from flows.payload.models import REPO_AUTH, TaskPayload
from flows.payload.policy import Policy
from flows.payload.repository import Remote
from flows.runtime import surroundings
from flows.runtime.secrets import container_secrets

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where replays are run: their folder, the volume that it lies in, and whether a server's
    blocks can be read. `environment` has the values of secrets where they cannot."""

    root: Path
    volume: str
    has_blocks: bool
    environment: Mapping[str, str]


class _Sayer(PullObserver):
    """Tells a pull to a person."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def say(self, sentence: str) -> None:
        """Say it."""
        self._say(f"{sentence}.")


def pull_options_of(place: Place, say: Say) -> PullOptions:
    """What the image is pulled with."""

    async def login(registry: str) -> Login | None:
        return await surroundings.registry_login(registry) if place.has_blocks else None

    return PullOptions(observer=_Sayer(say), login_to=login)


async def policy_of(place: Place) -> Policy:
    """The rules of the server, or the built-in ones."""
    return await surroundings.policy_in_force() if place.has_blocks else Policy()


async def secret_values(names: Mapping[str, str], place: Place) -> dict[str, str]:
    """Of each variable: what its block holds, else what this environment has for it."""
    values: dict[str, str] = {}
    faults = []
    for variable, block in names.items():
        value = await _from_block(variable, block) if place.has_blocks else None
        value = place.environment.get(variable) if value is None else value
        if value is None:
            faults.append(
                Fault(
                    f"task.container.secrets.{variable}",
                    f"the Secret block {block!r} cannot be read here, and {variable} is not set in "
                    f"this environment: export {variable}, or set PREFECT_API_URL to the server "
                    "that has the block",
                )
            )
        else:
            values[variable] = value
    if faults:
        raise PayloadError(faults)
    return values


async def _from_block(variable: str, block: str) -> str | None:
    try:
        return (await container_secrets({variable: block}))[variable]
    except (PayloadError, HostMisconfigured):
        return None


async def remote_of(payload: TaskPayload, place: Place, say: Say) -> Remote | None:
    """The repository, with its credentials where they can be had."""
    block = payload.secret_blocks.get(REPO_AUTH)
    if payload.repository and block and not place.has_blocks:
        say(f"The block {block} cannot be read here: git uses the credentials of this user.")
        payload = payload.model_copy(update={"auth": None})
    return await surroundings.remote_of(payload)
