"""A process that runs the flow of a flow run: `python -m tests.flow_process ID`; tests kill it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL

from flows.container_task import container_task


@contextmanager
def flow_process(run: FlowRun, api: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """For the block at most; `api` is where it finds the server, where that is not the test's."""
    settings = {"PREFECT_API_URL": api or str(PREFECT_API_URL.value())}
    command = [sys.executable, "-m", "tests.flow_process", str(run.id)]
    with subprocess.Popen(command, env={**os.environ, **settings}) as process:
        try:
            yield process
        finally:
            process.kill()


async def _main(run_id: UUID) -> None:
    async with get_client() as client:
        run = await client.read_flow_run(run_id)
    await run_flow(container_task, flow_run=run, return_type="state")  # type: ignore[misc]


if __name__ == "__main__":
    asyncio.run(_main(UUID(sys.argv[1])))
