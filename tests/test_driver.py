"""The driver: what becomes of runs whose process died, on a real server and a real engine."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prefect import get_client
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed

from flows.runtime.history import RESTARTED
from flows.runtime.lifecycle import Step
from tests.driven import DrivenRun
from tests.flow_process import flow_process
from tests.gateway import Gateway, Said
from tests.runs import shell, until_async, waiting

pytestmark = pytest.mark.docker
FAILS = "echo once; exit 3"
Submit = Callable[[object], Awaitable[DrivenRun]]


@pytest.fixture
async def submit(prefect_api: None, jobs_folder: Path) -> AsyncIterator[Submit]:
    async with get_client() as client:
        yield lambda payload: DrivenRun.submitted(client, payload, jobs_folder)


@pytest.fixture
def api(prefect_api: None) -> Iterator[Gateway]:
    """The way to the server, with weather."""
    with Gateway(str(PREFECT_API_URL.value()).removesuffix("/api")) as gateway:
        yield gateway


async def test_a_retry_whose_process_dies_between_its_end_and_its_state_is_not_run_once_more(
    submit: Submit, api: Gateway
) -> None:
    run = await submit(shell(FAILS))
    first = await run.carried()
    await run.retried()
    await run.dies_at(api, b'"type":"FAILED"')
    await run.driven()
    while (await run.state()).is_scheduled():
        await run.carried()
    assert len(run.store.attempts()) == 2
    last = await run.state()
    assert (last.name, last.message) == ("Failed", first.message)
    await run.assert_told_once(attempts=2)


async def test_a_run_that_ended_and_is_told_as_a_crash_gets_the_end_that_it_had(
    submit: Submit, api: Gateway
) -> None:
    run = await submit(shell("echo once", retry={"infrastructure": 0}))
    await run.dies_at(api, b'"type":"COMPLETED"')
    await run.client.set_flow_run_state(run.run.id, Crashed(message="as Prefect's worker says"))
    await run.driven()
    last = await run.state()
    assert (last.name, last.message) == ("Completed", "exited 0")
    await run.assert_told_once(attempts=1)


async def test_a_run_whose_process_died_is_told_as_a_crash_once_it_has_no_starts_left(
    submit: Submit,
) -> None:
    run = await submit(waiting("exit 0", retry={"infrastructure": 1}))
    await run.dies_at_work()
    assert await run.driven() == [Step.RESTART]
    assert (await run.state()).message == RESTARTED
    await run.dies_at_work()
    assert await run.driven() == [Step.END_ABANDONED, Step.TELL, Step.SET_END]
    kinds = await run.kinds()
    assert (kinds.count(StateType.CRASHED), kinds[-1]) == (1, StateType.CRASHED)
    (attempt,) = run.store.attempts()
    assert attempt.outcome.failure_class == "worker"
    await run.assert_told_once(attempts=1)
    assert await run.driven() == [], "another look changes nothing"
    await run.retried()
    carrying = asyncio.create_task(run.carried())
    await until_async(lambda: len(run.store.attempts()) == 2 and run.is_at_work, 120)
    run.let_end()
    assert (await carrying).is_completed(), "what somebody asks for is run, the first time"
    await run.assert_told_once(attempts=2)


async def test_what_the_server_did_not_take_is_told_later_and_once(
    submit: Submit, api: Gateway
) -> None:
    run = await submit(shell(FAILS))
    await run.claimed()
    with (
        api.saying("POST /api/artifacts/", Said(500, "")) as refused,
        flow_process(run.run, f"{api.http}/api") as process,
    ):
        await until_async(lambda: process.poll() is not None, 180)
    assert refused.is_set()
    assert (await run.state()).name == "Failed", "the run's state is right meanwhile"
    assert not run.store.attempts()[-1].published
    assert await run.driven() == [Step.TELL]
    assert await run.driven() == []
    # As one leaves it that dies before it has noted that all is told.
    run.store.put(replace(run.store.attempts()[-1], published=False))
    assert await run.driven() == [Step.TELL]
    artifacts = await run.client.read_artifacts()
    found = Counter(each.key for each in artifacts if each.flow_run_id == run.run.id)
    assert (found["container-run"], found["container-run-metadata"]) == (1, 1)
    await run.assert_told_once(attempts=1)
