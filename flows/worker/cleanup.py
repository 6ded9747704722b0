"""What a sweep does that nobody waits for: uploads that are not complete, folders that may go.

Apart from the rest of the sweep: a storage that hangs must keep no run from being taken up.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial

from prefect.client.orchestration import PrefectClient

from blocks.storage import ArtifactStorage, StorageUnreadable
from flows.engine.docker.engine import DockerEngine
from flows.runtime.collect import remove_left_behind
from flows.runtime.recovery import read_run
from flows.runtime.store import AttemptStore, IsCarried, carries_nothing
from flows.settings import HostSettings
from flows.spec import is_expired
from flows.worker.retention import Rules, remove_due, rules_of
from flows.worker.uploads import finish_uploads
from flows.workspace.logs import Logger


async def tidy(
    client: PrefectClient,
    host: HostSettings,
    engine: DockerEngine,
    logger: Logger,
    *,
    dry_run: bool = False,
    is_carried: IsCarried = carries_nothing,
) -> list[str]:
    """Look after what runs left on this host's disk; a sentence for each thing done."""
    swept = _sweep_storage(client, host, is_carried, logger, dry_run=dry_run)
    done = [each async for each in swept]
    if not dry_run:
        done += await remove_left_behind(engine, host)
    return told(done, logger, dry_run=dry_run)


def told(done: list[str], logger: Logger, *, dry_run: bool) -> list[str]:
    """What was done, or would be, said in the log as well."""
    for sentence in done:
        logger.info(f"Would: {sentence}" if dry_run else sentence)
    return done


async def _sweep_storage(
    client: PrefectClient,
    host: HostSettings,
    is_carried: IsCarried,
    logger: Logger,
    *,
    dry_run: bool,
) -> AsyncIterator[str]:
    """Finish uploads, and remove what has been kept long enough."""
    root, storage = host.workdir, None
    try:
        storage = await ArtifactStorage.in_force()
    except StorageUnreadable as error:
        yield f"results are neither uploaded nor removed: {error}"
    stores = partial(AttemptStore, root, is_carried=is_carried)
    async for sentence in finish_uploads(client, root, stores, storage, logger, dry_run=dry_run):
        yield sentence

    async def may_go(store: AttemptStore) -> bool:
        return await _may_go(client, store)

    rules, now = rules_of(storage) if storage else Rules(), datetime.now(UTC)
    async for sentence in remove_due(root, stores, rules, now, may_go, dry_run=dry_run):
        yield sentence


async def _may_go(client: PrefectClient, store: AttemptStore) -> bool:
    """Whether nobody will ask for the job's folder any more but people."""
    run, attempt = await read_run(client, store.job_id), store.last()
    if run is None or run.state is None:
        return attempt is None or is_expired(attempt.prepared.spec.labels, datetime.now(UTC))
    return run.state.is_final() and (attempt is not None or not run.state.is_crashed())
