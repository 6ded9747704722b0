"""Checks of Prefect blocks: the policy, the artifact storage and the registry log-ins."""

import io
from collections.abc import Sequence
from uuid import uuid4

from blocks.policy import ContainerPolicy, PolicyUnreadable
from blocks.registries import CredentialsUnreadable, saved_logins
from blocks.storage import ArtifactStorage, StorageUnreadable
from flows.cli.doctor.checkup import Check, Finding, Part, fault, ok, warning
from flows.cli.doctor.engine import ENGINE
from flows.cli.doctor.server import API
from flows.engine.docker.probe import refused_login
from flows.engine.images.auth import Login
from flows.errors import EngineUnavailable, StorageError
from flows.outputs.stores import HashingReader, Store, explain, open_store
from flows.threads import in_thread

POLICY, STORAGE, REGISTRIES = "policy", "storage", "registries"

# Always the same, so that where it cannot be removed there is never more than one.
_KEY = "moonmind-doctor.txt"
_UI = "correct the block under Blocks in the UI, or delete it"


def block_checks() -> list[Check]:
    """The checks of blocks, of the part `prefect`."""
    return [
        Check(POLICY, Part.PREFECT, check_policy, (API,)),
        Check(STORAGE, Part.PREFECT, check_storage, (API,), 60),
        Check(REGISTRIES, Part.PREFECT, check_registries, (API, ENGINE), 60),
    ]


async def check_policy() -> Sequence[Finding]:
    """Whether the policy in force can be read."""
    try:
        found = await ContainerPolicy.in_force()
    except PolicyUnreadable as error:
        return [fault(POLICY, str(error), _UI)]
    rules = found.plain()
    images = ", ".join(rules.allowed_images) or "none"
    return [ok(POLICY, f"images: {images}; networks: {', '.join(rules.allowed_networks)}")]


async def check_storage() -> Sequence[Finding]:
    """Whether the place for results takes a small file, and shows it."""
    try:
        block = await ArtifactStorage.in_force()
    except StorageUnreadable as error:
        return [fault(STORAGE, str(error), _UI)]
    if not block.is_remote:
        return [ok(STORAGE, "results stay in the job folders")]
    try:
        store = await open_store(block)
    except StorageError as error:
        return [fault(STORAGE, str(error), "correct the block moonmind-artifact-storage/default")]
    try:
        return [await in_thread(lambda: _put_and_remove(store))]
    except Exception as error:  # noqa: BLE001 - of a storage comes almost anything
        says = f"{store.address} does not take files ({explain(error, store.secrets)})"
        mend = "see whether it exists, and whether the block's credentials may write there"
        return [fault(STORAGE, says, mend)]
    finally:
        await in_thread(store.close)


def _put_and_remove(store: Store) -> Finding:
    data = uuid4().hex.encode()
    try:
        # Another doctor may remove it in between, but hardly twice.
        is_stored = any(_put(store, data) for _ in range(2))
    finally:
        left = _remove(store)
    if not is_stored:
        mend = "see whether the address is the one that is meant, and who else writes there"
        return fault(STORAGE, f"{store.address} does not have what was just put there", mend)
    return ok(STORAGE, f"{store.address} takes files{left}")


def _put(store: Store, data: bytes) -> bool:
    store.put(_KEY, HashingReader(io.BytesIO(data), len(data), lambda: False))
    return store.has(_KEY, len(data))


def _remove(store: Store) -> str:
    """What stays behind, if anything; uploads never remove, so it need not be allowed."""
    try:
        is_gone = store.remove(_KEY)
    except FileNotFoundError:
        is_gone = True
    except Exception as error:  # noqa: BLE001 - of a storage comes almost anything
        said = explain(error, store.secrets)
        return f"; {_KEY} stays there, as it could not be removed ({said})"
    return "" if is_gone else f"; {_KEY} stays there, as a block cannot be asked to remove it"


async def check_registries() -> Sequence[Finding]:
    """Whether each saved log-in is one that its registry takes."""
    try:
        saved = await saved_logins()
    except CredentialsUnreadable as error:
        return [fault(REGISTRIES, str(error), _UI)]
    if not saved:
        return [ok(REGISTRIES, "no log-in is saved")]
    return [await _login_finding(name, login) for name, login in saved]


async def _login_finding(name: str, login: Login | CredentialsUnreadable) -> Finding:
    if isinstance(login, CredentialsUnreadable):
        return fault(REGISTRIES, str(login), _UI)
    who = f"the log-in of {login.username} to {login.registry}, in the block {name},"
    try:
        refusal = await in_thread(lambda: refused_login(login))
    except EngineUnavailable as error:
        says = f"{who} could not be tried ({error})"
        return warning(REGISTRIES, says, "run doctor once on the engine's host, without a proxy")
    if refusal is None:
        return ok(REGISTRIES, f"{who} is good")
    mend = f"correct user and password in the block {name}, or see whether the registry answers"
    return fault(REGISTRIES, f"{who} is refused: {refusal}", mend)
