"""The flow `reap-orphans`: a sweep and a tidying of the host of the worker that takes it.

A job of this host whose lock is free has no process any more, whatever its run's state says; a run
that a worker took minutes ago and that never began has lost its worker; an object on the engine
whose run is over, or whose `moonmind.expires_at` is past, has no run.
"""

from prefect import flow, get_client, get_run_logger

from flows.runtime.context import injectable, injected
from flows.settings import HostSettings
from flows.worker.cleanup import tidy
from flows.worker.sweep import SweptHost, sweep


@injectable
@flow(name="reap-orphans", persist_result=False)
async def reap_orphans(dry_run: bool = False) -> list[str]:
    """End or restart runs whose process died on this host, and remove what nobody owns.

    Args:
        dry_run: Only say what would be done.

    Returns:
        What was done, or would be, a sentence each.
    """
    async with get_client() as client:
        host = SweptHost(client, HostSettings(), get_run_logger(), injected().is_running, dry_run)
        return await sweep(host) + await tidy(host)
