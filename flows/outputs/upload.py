"""Upload the files of an attempt with fsspec or a block of Prefect's, and keep what went wrong.

An upload that is not complete has a journal (`flows.outputs.upload_journal`), from before its first
byte until after its manifest: a sweep goes on with it. A failure never changes the outcome.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from blocks.storage import ArtifactStorage, StorageUnreadable
from flows.attempt import Attempt, Upload
from flows.errors import StorageError, WorkspaceError
from flows.outputs.stores import Store, explain, open_store
from flows.outputs.upload_journal import UploadJournal
from flows.outputs.upload_plan import plan
from flows.outputs.uploader import Uploader
from flows.threads import in_thread
from flows.workspace.folder import Workspace
from flows.workspace.logs import Logger
from flows.workspace.safe_open import is_folder
from flows.workspace.tree import Tree, walk

# For a store to close its connections.
_CLOSE_SECONDS = 2.0


class FilesGone(StorageError):
    """What was to be uploaded is not on this host any more."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An upload that is to be made; without a `storage`, `unknown` says why it cannot be read.

    `newest` is the number of the job's newest attempt.
    """

    workspace: Workspace
    journal: UploadJournal
    newest: int
    storage: ArtifactStorage | None = None
    unknown: str = ""


async def begin_delivery(attempt: Attempt, newest: int, logger: Logger) -> Delivery | None:
    """Open the journal of the attempt's upload; None where its files stay on their host."""
    spec, workspace = attempt.prepared.spec, attempt.prepared.workspace
    journal = UploadJournal(workspace.root, spec.job_id, spec.attempt)
    try:
        storage = await ArtifactStorage.in_force()
    except StorageUnreadable as error:
        delivery = Delivery(workspace, journal, newest, unknown=str(error))
    else:
        if not storage.is_remote:
            journal.close()
            return None
        delivery = Delivery(workspace, journal, newest, storage)
    try:
        journal.open()
    except WorkspaceError as error:
        logger.warning("If the upload fails, no sweep will repair it: %s", error)
    return delivery


async def deliver(delivery: Delivery, logger: Logger, seconds: float) -> Upload:
    """Upload the files within `seconds`; raises nothing that a storage can cause."""
    storage, journal = delivery.storage, delivery.journal
    if storage is None:
        return Upload("", delivery.unknown)
    try:
        files = await asyncio.to_thread(
            files_of, delivery.workspace, journal.attempt, delivery.newest
        )
        return Upload(await upload(storage, journal, files, logger, seconds))
    except StorageError as error:
        logger.warning("The files are not uploaded: %s; the sweep tries again", error)
        return Upload(storage.url or storage.block or "", str(error))


def files_of(workspace: Workspace, number: int, newest: int) -> Tree:
    """The artifacts folder of an attempt; those before the `newest` were set aside.

    Raises `FilesGone`.
    """
    if number == newest:
        if is_folder(workspace.artifacts):
            return Tree(workspace.folder, ("artifacts",))
    elif is_folder(workspace.folder / "attempts" / str(number)):
        return Tree(workspace.folder, ("attempts", str(number)))
    for aside in workspace.root.glob(f"{workspace.job_id}.attempt-{number}-*"):
        return Tree(aside, ("artifacts",))
    raise FilesGone(f"they are not in {workspace.folder} any more")


async def upload(
    storage: ArtifactStorage, journal: UploadJournal, files: Tree, logger: Logger, seconds: float
) -> str:
    """Send what is missing of `files`, and the manifest; the address. Raises `StorageError`."""
    most = int(storage.max_upload_gib * 1024**3)
    async with _opened(storage) as store, _within(seconds, store):
        found = await in_thread(lambda: plan(walk(files), most))
        uploader = Uploader(store, files, found, journal)
        await uploader.run(storage.parallel_uploads, logger)
        journal.close()
    logger.info(uploader.summary)
    return uploader.address


@asynccontextmanager
async def _opened(storage: ArtifactStorage) -> AsyncIterator[Store]:
    store = await open_store(storage)
    try:
        yield store
    finally:
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await in_thread(store.close)


@asynccontextmanager
async def _within(seconds: float, store: Store) -> AsyncIterator[None]:
    """Raise `StorageError` for all that goes wrong in the block, and where it takes too long."""
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except StorageError:
        raise
    except Exception as error:
        if limit.expired():
            raise StorageError(
                f"the upload to {store.address} took longer than its limit of {seconds:.0f} s"
            ) from None
        said = explain(error, store.secrets)
        raise StorageError(f"the upload to {store.address} failed ({said})") from error
