"""What a replay takes from its surroundings: rules, secrets and log-ins, of a server or of here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from blocks.policy import ContainerPolicy, PolicyUnreadable
from blocks.registries import CredentialsUnreadable, login_to
from flows.engine.images.auth import Login
from flows.engine.images.pull import Supply, Teller
from flows.errors import EngineUnavailable, Fault, HostMisconfigured, PayloadError
from flows.payload.models import TaskPayload
from flows.payload.policy import Policy
from flows.payload.repository import Remote
from flows.runtime.secrets import container_secrets, with_credentials

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where replays are run: their folder, the volume that it lies in, and whether a server's
    blocks can be read. `environment` has the values of secrets where they cannot."""

    root: Path
    volume: str
    has_blocks: bool
    environment: Mapping[str, str]


class _Sayer(Teller):
    """Tells a pull to a person."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def say(self, sentence: str) -> None:
        """Say it."""
        self._say(f"{sentence}.")


def supply_of(place: Place, say: Say) -> Supply:
    """What the image is pulled with."""

    async def login(registry: str) -> Login | None:
        if not place.has_blocks:
            return None
        try:
            return await login_to(registry)
        except CredentialsUnreadable as error:
            raise EngineUnavailable(str(error)) from error

    return Supply(teller=_Sayer(say), login_to=login)


async def policy_of(place: Place) -> Policy:
    """The rules of the server, or the built-in ones."""
    if not place.has_blocks:
        return Policy()
    try:
        return (await ContainerPolicy.in_force()).plain()
    except PolicyUnreadable as error:
        raise HostMisconfigured(str(error)) from error


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
    if payload.repository is None:
        return None
    remote = Remote.parse(payload.repository)
    block = payload.auth.repo_auth_ref if payload.auth else None
    if not block:
        return remote
    if place.has_blocks:
        return await with_credentials(remote, block)
    say(f"The block {block} cannot be read here: git uses the credentials of this user.")
    return remote
