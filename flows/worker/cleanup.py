"""Clean-up of a host's disk, which nobody waits for: retry uploads, remove job folders.

Apart from the sweep: a storage that hangs must keep no run from being taken up.
"""

from collections.abc import AsyncIterator

from blocks.storage import ArtifactStorage, StorageUnreadable
from flows.engine.selection import open_engine
from flows.runtime.collect import remove_left_behind
from flows.runtime.recovery import read_run
from flows.runtime.store import AttemptStore
from flows.spec import is_expired
from flows.worker.host import SweptHost
from flows.worker.retention import RetentionRules, remove_due, rules_of
from flows.worker.uploads import finish_uploads


async def tidy(host: SweptHost) -> list[str]:
    """Look after what runs left on this host's disk; a sentence for each thing done."""
    done = [sentence async for sentence in _tidy_results(host)]
    if not host.dry_run:
        async with open_engine() as engine:
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
