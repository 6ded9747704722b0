"""Runs of the scheduled flows whose process died: told as such, and by nobody else's."""

import logging
from contextlib import ExitStack
from datetime import timedelta
from uuid import uuid4

import pytest
from prefect import get_client
from prefect.client.schemas.objects import State, StateType

from flows.orphans import reap_orphans
from flows.runtime.run_states import HOST_LABEL, WORKER_LABEL
from flows.settings import HostSettings
from flows.worker.helpers import sweep_helpers
from flows.worker.owners import present
from flows.worker.sweep import SweptHost

MINE = HostSettings().worker


@pytest.mark.parametrize(
    ("kind", "host", "is_alive", "ahead", "told"),
    [
        (StateType.RUNNING, MINE, False, timedelta(0), "CRASHED"),
        (StateType.CANCELLING, MINE, False, timedelta(0), "CANCELLED"),
        (StateType.RUNNING, MINE, True, timedelta(0), "RUNNING"),
        (StateType.RUNNING, "another", False, timedelta(hours=1), "RUNNING"),
        (StateType.RUNNING, "another", False, timedelta(days=2), "CRASHED"),
    ],
)
async def test_a_run_of_a_scheduled_flow_whose_process_died_does_not_stay_running(
    prefect_api: None,
    kind: StateType,
    host: str,
    is_alive: bool,
    ahead: timedelta,
    told: str,
) -> None:
    settings, worker = HostSettings(), f"worker-{uuid4()}"
    async with get_client() as client:
        begun: State[None] = State(type=kind)
        run = await client.create_flow_run(reap_orphans, state=begun)
        await client.update_flow_run_labels(run.id, {HOST_LABEL: host, WORKER_LABEL: worker})
        swept = SweptHost(client, settings, logging.getLogger(__name__), ahead=ahead)
        with ExitStack() as life:
            life.enter_context(present(settings.workdir, worker))
            if not is_alive:
                life.close()
            said = [sentence async for sentence in sweep_helpers(swept)]
        now = (await client.read_flow_run(run.id)).state_type
        await client.delete_flow_run(run.id)
    assert now == told
    assert any(str(run.id) in sentence for sentence in said) is (told != "RUNNING")
