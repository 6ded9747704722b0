"""Clean-up of a host's disk, which nobody waits for: retry uploads, remove old job folders.

Apart from the sweep: a storage that hangs must keep no run from being taken up. Folders are removed
by age and by disk use, with all that is known of the jobs; what else lies in there stays.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta

from blocks.storage import ArtifactStorage, StorageUnreadable
from flows.attempt import Upload
from flows.engine.selection import open_engine
from flows.errors import StorageError
from flows.outputs.upload import FilesGone, files_of, upload
from flows.outputs.upload_plan import UploadJournal, pending_uploads
from flows.report.artifacts import files_artifact
from flows.runtime.collect import remove_left_behind
from flows.runtime.helper_image import note_helper_image
from flows.runtime.run_states import read_run
from flows.runtime.store import AttemptStore, Busy
from flows.spec import UPLOAD_SECONDS, is_expired
from flows.worker.helpers import sweep_helpers
from flows.worker.retention import RetentionRules, remove_due, rules_of
from flows.worker.sweep import SweptHost

# Before a sweep begins with no further upload.
_UPLOAD_SECONDS = 60.0
_FIRST_TRY = timedelta(seconds=60)


async def tidy(host: SweptHost) -> list[str]:
    """Look after what runs left on this host's disk, and after this package's other runs; a
    sentence for each thing done."""
    done = [sentence async for sentence in sweep_helpers(host)]
    done += [sentence async for sentence in _tidy_results(host)]
    if not host.dry_run:
        async with open_engine() as engine:
            await note_helper_image(engine, host.settings)
            done += await remove_left_behind(engine, host.settings)
    return host.log(done)


async def _tidy_results(host: SweptHost) -> AsyncIterator[str]:
    storage = None
    try:
        storage = await ArtifactStorage.in_force()
    except StorageUnreadable as error:
        yield f"results are neither uploaded nor removed: {error}"
    async for sentence in finish_uploads(host, storage):
        yield sentence

    async def may_go(store: AttemptStore) -> bool:
        """Whether nobody will ask for the job's folder any more but people."""
        run, attempt = await read_run(host.client, store.job_id), store.last()
        if run is None or run.state is None:
            return attempt is None or is_expired(attempt.prepared.spec.labels, host.now())
        return run.state.is_final() and (attempt is not None or not run.state.is_crashed())

    root, rules = host.settings.workdir, rules_of(storage) if storage else RetentionRules()
    async for sentence in remove_due(
        root, host.store, rules, host.now(), may_go, dry_run=host.dry_run
    ):
        yield sentence


async def finish_uploads(host: SweptHost, storage: ArtifactStorage | None) -> AsyncIterator[str]:
    """Retry uploads of published attempts, with pauses that double; a sentence for each. Begins
    none after a minute, and none at all where `storage` is not known."""
    until, root = time.monotonic() + _UPLOAD_SECONDS, host.settings.workdir
    for job_id, number in await asyncio.to_thread(pending_uploads, root):
        if storage is None or time.monotonic() > until:
            return
        store, journal = host.store(job_id), UploadJournal(root, job_id, number)
        try:
            with store.held():
                done = await _finish(host, storage, store, journal)
        except Busy:
            continue
        except Exception as error:  # noqa: BLE001 - one job must not keep the sweep from the others
            done = f"the upload of attempt {number} could not be swept: {error}"
        if done:
            yield f"{job_id}: {done}"


async def _finish(
    host: SweptHost, storage: ArtifactStorage, store: AttemptStore, journal: UploadJournal
) -> str | None:
    attempts = {each.prepared.spec.attempt: each for each in store.attempts()}
    number, attempt = journal.attempt, attempts.get(journal.attempt)
    if attempt is None:
        journal.close()
        return f"forgot the upload of attempt {number}, of which nothing else is known"
    known = journal.read()
    # Whoever publishes it sees to it.
    if not attempt.published or not is_due(known.tries, known.last_try, host.now()):
        return None
    if host.dry_run:
        return f"uploaded the files of attempt {number}"
    if not storage.is_remote:
        journal.close()
        store.put(replace(attempt, upload=None))
        return f"left the files of attempt {number} in their folder: no storage is set any more"
    try:
        files = files_of(attempt.prepared.workspace, number, max(attempts))
        seconds = allowance(known.tries, UPLOAD_SECONDS)
        address = await upload(storage, journal, files, host.logger, seconds)
    except FilesGone as error:
        journal.close()
        store.put(replace(attempt, upload=Upload(storage.url or "", str(error))))
        return f"the files of attempt {number} cannot be uploaded any more: {error}"
    except StorageError as error:
        return f"the files of attempt {number} are still not uploaded: {error}"
    done = replace(attempt, upload=Upload(address))
    store.put(done)
    await host.client.create_artifact(files_artifact(done))
    return f"uploaded the files of attempt {number} to {address}"


def is_due(tries: int, last: datetime | None, now: datetime) -> bool:
    """Whether a sweep tries again: at once after the first try, then ever more seldom."""
    if last is None or tries < 2:
        return True
    return now - last >= min(timedelta(hours=1), _FIRST_TRY * (1 << min(tries - 2, 10)))


def allowance(tries: int, most: float) -> float:
    """Seconds that a sweep gives a try; more each time, so that the longest file gets through."""
    return float(min(most, _FIRST_TRY.total_seconds() * 2 ** min(tries, 10)))
