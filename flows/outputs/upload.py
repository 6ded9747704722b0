"""Where the results of an attempt go: uploaded when it is published, or by the sweep after that.

An upload that is not complete has a journal (`flows.outputs.upload_journal`), from before its first
byte until after its manifest. What keeps it is told beside the outcome and never changes that.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate

from blocks.storage import ArtifactStorage, StorageUnreadable
from flows.attempt import Attempt, Upload
from flows.errors import StorageError, WorkspaceError
from flows.outputs.stores import Store, explain, open_store
from flows.outputs.upload_journal import UploadJournal, pending_uploads
from flows.outputs.upload_plan import (
    Plan,
    allowance,
    file_address,
    is_due,
    link,
    plan,
    prefix,
    progress,
    summary,
)
from flows.outputs.uploader import Sending
from flows.runtime.cancellation import stop_of
from flows.runtime.store import AttemptStore, Busy
from flows.spec import UPLOAD_SECONDS, ContainerSpec
from flows.text import code
from flows.threads import begin, in_thread
from flows.workspace.listing import is_folder
from flows.workspace.logs import Logger
from flows.workspace.tree import Tree, walk

FILES_KEY = "container-run-files"

_TELL_SECONDS = 10.0
# For threads to come to the end of what they send.
_END_SECONDS = 2.0
# Before a sweep begins with no further job.
_SWEEP_SECONDS = 60.0


class FilesGone(StorageError):
    """What was to be uploaded is not on this host any more."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is to become of an attempt's files: `storage` takes them, or `unknown` says why nobody
    knows yet what does."""

    journal: UploadJournal
    storage: ArtifactStorage | None = None
    unknown: str = ""


async def intended(attempt: Attempt, logger: Logger) -> Delivery | None:
    """Where the files are to go, noted on disk as pending; None where they stay."""
    spec, workspace = attempt.prepared.spec, attempt.prepared.workspace
    journal = UploadJournal(workspace.root, spec.job_id, spec.attempt)
    try:
        storage = await ArtifactStorage.in_force()
    except StorageUnreadable as error:
        delivery = Delivery(journal, unknown=str(error))
    else:
        if not storage.is_remote:
            journal.close()
            return None
        delivery = Delivery(journal, storage)
    try:
        journal.open()
    except WorkspaceError as error:
        logger.warning("If the upload fails, no sweep will repair it: %s", error)
    return delivery


async def deliver(
    delivery: Delivery | None, attempt: Attempt, logger: Logger, seconds: float
) -> Upload | None:
    """Upload the files of an attempt; raises nothing that a storage can cause.

    `seconds` is how long it may take; what is missing then is for the sweep.
    """
    if delivery is None:
        return None
    storage = delivery.storage
    if storage is None:
        return Upload("", delivery.unknown)
    try:
        return Upload(await upload(storage, delivery.journal, attempt, logger, seconds))
    except StorageError as error:
        logger.warning("The files are not uploaded: %s; the sweep tries again", error)
        return Upload(storage.url or storage.block or "", str(error))


async def create_link(client: PrefectClient, attempt: Attempt) -> None:
    """Show where the files are on the page of the run: in the storage, or still on their host."""
    spec, upload = attempt.prepared.spec, attempt.upload
    if upload is not None and upload.error is None:
        about = "Where the files of the run are; manifest.json lists them"
        data = _links(upload.address, spec)
    else:
        about = f"Where the files of the run are: on the host {spec.worker}"
        data = code(str(attempt.prepared.workspace.artifacts))
    await client.create_artifact(
        ArtifactCreate(
            key=FILES_KEY,
            type="markdown",
            description=about,
            data=data,
            flow_run_id=UUID(spec.job_id),
        )
    )


def _links(address: str, spec: ContainerSpec) -> str:
    """As Prefect's link artifacts are written; with one to the outputs, where there are any."""
    shown = f"[{address}]({link(address)})"
    if not spec.outputs:
        return shown
    manifest = file_address(address, f"{spec.artifacts_subdir}/metadata/outputs.json")
    return f"{shown}\n\nIts outputs: [outputs.json]({manifest})" if manifest else shown


async def finish_uploads(
    client: PrefectClient,
    root: Path,
    storage: ArtifactStorage | None,
    logger: Logger,
    *,
    dry_run: bool,
) -> AsyncIterator[str]:
    """Go on with the uploads of published attempts; a sentence for each.

    With no `storage` it is not known where to: all stay pending. Begins none after a minute.
    """
    until = time.monotonic() + _SWEEP_SECONDS
    for job_id, number in pending_uploads(root):
        if storage is None or time.monotonic() > until:
            return
        attempt_store, journal = AttemptStore(root, job_id), UploadJournal(root, job_id, number)
        try:
            # A worker that carries the run in this process may be about to tell its end.
            if stop_of(job_id):
                continue
            with attempt_store.held():
                said = await _go_on(
                    client, storage, attempt_store, journal, logger, dry_run=dry_run
                )
        except Busy:
            continue
        except Exception as error:  # noqa: BLE001 - one job must not keep the sweep from the others
            said = f"the upload of attempt {number} could not be swept: {error}"
        if said:
            yield f"{job_id}: {said}"


async def _go_on(
    client: PrefectClient,
    storage: ArtifactStorage,
    attempt_store: AttemptStore,
    journal: UploadJournal,
    logger: Logger,
    *,
    dry_run: bool,
) -> str | None:
    number = journal.attempt
    attempts = {each.prepared.spec.attempt: each for each in attempt_store.attempts()}
    attempt = attempts.get(number)
    if attempt is None:
        journal.close()
        return f"forgot the upload of attempt {number}, of which nothing else is known"
    if not attempt.published:
        # Whoever publishes it sees to it.
        return None
    known = journal.read()
    if not is_due(known.tries, known.last_try, datetime.now(UTC)):
        return None
    if dry_run:
        return f"uploaded the files of attempt {number}"
    if not storage.is_remote:
        journal.close()
        attempt_store.put(replace(attempt, upload=None))
        return f"left the files of attempt {number} in their folder: no storage is set any more"
    seconds = allowance(known.tries, UPLOAD_SECONDS)
    try:
        address = await upload(storage, journal, attempt, logger, seconds)
    except FilesGone as error:
        journal.close()
        attempt_store.put(replace(attempt, upload=Upload(storage.url or "", str(error))))
        return f"the files of attempt {number} cannot be uploaded any more: {error}"
    except StorageError as error:
        return f"the files of attempt {number} are still not uploaded: {error}"
    done = replace(attempt, upload=Upload(address))
    attempt_store.put(done)
    await create_link(client, done)
    return f"uploaded the files of attempt {number} to {address}"


async def upload(
    storage: ArtifactStorage,
    journal: UploadJournal,
    attempt: Attempt,
    logger: Logger,
    seconds: float,
) -> str:
    """Send what is missing; the address. Raises `StorageError`."""
    spec = attempt.prepared.spec
    folder = prefix(spec.job_id, spec.attempt)
    tree = await asyncio.to_thread(_tree, attempt)
    store = await open_store(storage)
    sending = None
    try:
        async with asyncio.timeout(seconds) as limit:
            most = int(storage.max_upload_gib * 1024**3)
            found = await in_thread(lambda: plan(walk(tree), most))
            known = journal.read()
            with suppress(WorkspaceError):
                journal.tries(datetime.now(UTC), store.address)
            sending = Sending(store, tree, found, journal, known, folder)
            await _sent(sending, found, storage.parallel_uploads, logger)
            await in_thread(partial(sending.finish, spec.job_id, spec.attempt))
        journal.close()
    except StorageError:
        raise
    except Exception as error:
        if limit.expired():
            raise StorageError(
                f"the upload to {store.address} took longer than its limit of {seconds:.0f} s"
            ) from None
        said = explain(error, store.secrets)
        raise StorageError(f"the upload to {store.address} failed ({said})") from error
    finally:
        if sending is not None:
            sending.stop()
        await _closed(store)
    address = f"{store.address}/{folder}"
    logger.info(_summary(sending, found, address))
    return address


async def _sent(sending: Sending, found: Plan, threads: int, logger: Logger) -> None:
    """Wait for the threads, and tell how far they are now and then."""
    running = {begin(sending.work) for _ in range(min(threads, len(found.items)))}
    left = running
    try:
        while left:
            _, left = await asyncio.wait(left, timeout=_TELL_SECONDS)
            if left:
                sent = sending.sent
                so_far = (len(sent.files), len(found.items), sent.size_bytes, found.size_bytes)
                logger.info(progress(*so_far))
        sending.raise_failure()
    finally:
        if left:
            sending.stop()
            await asyncio.wait(left, timeout=_END_SECONDS)


def _summary(sending: Sending, found: Plan, address: str) -> str:
    sent = sending.sent
    skipped = len(found.skipped) + len(sent.unreadable) + found.left_out
    notes = [
        *([f"{sent.already:,} were there already"] if sent.already else []),
        *([f"{skipped:,} things were skipped, see manifest.json"] if skipped else []),
        *([sending.journal_error] if sending.journal_error else []),
    ]
    return "; ".join([summary(len(sent.files), sent.size_bytes, address), *notes])


async def _closed(store: Store) -> None:
    with suppress(Exception):
        async with asyncio.timeout(_END_SECONDS):
            await in_thread(store.close)


def _tree(attempt: Attempt) -> Tree:
    """Where the files of the attempt are; those of earlier ones were set aside."""
    workspace, number = attempt.prepared.workspace, attempt.prepared.spec.attempt
    earlier = workspace.folder / "attempts" / str(number)
    newest = AttemptStore(workspace.root, workspace.job_id).last()
    if newest is None or newest.prepared.spec.attempt == number:
        if is_folder(workspace.artifacts):
            return Tree(workspace.folder, ("artifacts",))
    elif is_folder(earlier):
        return Tree(workspace.folder, ("attempts", str(number)))
    for aside in workspace.root.glob(f"{workspace.job_id}.attempt-{number}-*"):
        return Tree(aside, ("artifacts",))
    raise FilesGone(f"they are not in {workspace.folder} any more")
