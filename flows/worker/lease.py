"""Heartbeats of a worker, and with them the lease under which it acts for its runs."""

import asyncio
from collections.abc import Awaitable, Callable

from flows.runtime.lease import Lease
from flows.workspace.logs import Logger

Step = Callable[[], Awaitable[object]]
_ANSWER_SECONDS = 20.0


async def keep_lease(
    lease: Lease, send_heartbeat: Step, confirm: Step, logger: Logger, seconds: float = 10.0
) -> None:
    """Send a heartbeat every so many seconds, and renew the lease with each that is taken.

    One that had run out is only held again after `confirm`, which ends the runs that are another
    host's by now. An answer that does not come in time is none.
    """
    is_cut_off = False
    while True:
        sent_at = lease.now()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await send_heartbeat()
                if not lease.is_held:
                    await confirm()
        except Exception as error:  # noqa: BLE001 - of a server that is away comes almost anything
            if not is_cut_off:
                logger.warning("Prefect's server takes no heartbeat of this worker: %r", error)
            is_cut_off = True
        else:
            if is_cut_off:
                logger.info("Prefect's server takes heartbeats of this worker again")
            is_cut_off = False
            lease.renew(sent_at)
        await asyncio.sleep(1.0 if is_cut_off else seconds)
