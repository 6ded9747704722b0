"""`docker pause` for the containers of a host whose worker starts and is not heard by the server.

Its predecessor died, and nobody pauses what that left before other hosts take it over. Whoever
takes such a run up here adopts its container, which then goes on.
"""

import asyncio

from prefect.client.orchestration import PrefectClient

from flows.runtime.context import Job
from flows.runtime.store import AttemptStore, Busy, open_jobs
from flows.runtime.suspension import pause
from flows.settings import HostSettings
from flows.workspace.logs import Logger

_ANSWER_SECONDS = 10.0


async def stand_still_unless_heard(
    client: PrefectClient, host: HostSettings, logger: Logger
) -> None:
    """Ask whether the server is there, and pause what nobody carries where it is not."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await client.request("GET", "/health")
    except Exception as error:  # noqa: BLE001 - of a server that is away comes almost anything
        logger.warning("Prefect's server is out of reach: %r", error)
        await stand_still(host, logger)


async def stand_still(host: HostSettings, logger: Logger) -> None:
    """Pause every container of this host that no process carries."""
    for job_id in await asyncio.to_thread(open_jobs, host.workdir):
        store = AttemptStore(host.workdir, job_id)
        try:
            with store.held():
                attempt = store.last()
                if attempt is not None and not attempt.published:
                    await pause(Job(store, logger, host=host), attempt)
        except Busy:
            continue
        except Exception as error:  # noqa: BLE001 - one job must not keep it from the others
            logger.warning("The container of %s may run on: %r", job_id, error)
