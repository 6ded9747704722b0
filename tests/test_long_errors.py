"""How an attempt ended, whoever said it at whatever length: cut, where it is stored and told."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from flows.attempt import Attempt
from flows.engine.contract import Engine
from flows.errors import EngineRefused
from flows.outcome import FailureClass, OutcomeName, failed
from flows.report.names import state_message
from flows.report.run_json import run_report
from flows.runtime.attempts import execute_attempt
from flows.runtime.context import Job
from flows.runtime.store import AttemptStore
from flows.spec import ContainerSpec
from flows.testing import FakeEngine
from flows.workspace.listing import Listing
from tests.finished import finished

_STORED, _TOLD = 1_000, 2_000
SECRET = "t0ken-of-somebody"
# The secret is across the cut.
LONG = "x" * (_STORED - 8) + SECRET + "y\n" * 100_000


class Talkative(FakeEngine):
    """An engine that says much."""

    async def start(self, spec: ContainerSpec) -> None:
        raise EngineRefused(LONG)


def job_on(attempt: Attempt) -> Job:
    @asynccontextmanager
    async def opened(*_: object) -> AsyncIterator[Engine]:
        yield Talkative()

    spec, workspace = attempt.prepared.spec, attempt.prepared.workspace
    store = AttemptStore(workspace.root, spec.job_id)
    return Job(store, logging.getLogger(__name__), opened, secrets=[SECRET])


@pytest.mark.usefixtures("prefect_api")
async def test_what_an_engine_says_is_cut_where_it_is_stored(tmp_path: Path) -> None:
    made = finished(tmp_path)
    begun = replace(made, began=False, executed=None, published=False)
    job = job_on(begun)
    with job.store.held(make=True):
        ended = await execute_attempt(job, begun)
    stored = job.store.last()
    assert stored is not None
    assert stored.executed is not None
    for outcome in (ended.outcome, stored.outcome):
        assert outcome.name is OutcomeName.REJECTED
        assert outcome.error is not None
        assert len(outcome.error) == _STORED
        assert "t0k" not in outcome.error
        assert "***y" in outcome.error
    report = json.loads(run_report(stored.prepared, stored.executed, Listing((), 0)).as_json())
    assert len(report["error"]) == _STORED
    assert len(state_message(stored.outcome)) <= _TOLD


def test_what_a_state_says_is_cut() -> None:
    assert len(state_message(failed(FailureClass.ENGINE, "x\n" * 50_000))) == _TOLD
