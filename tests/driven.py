"""Runs of a deployment on a real server, the processes that carry them, and what became of them."""

import asyncio
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.flow_engine import run_flow
from prefect.states import Pending, Scheduled

from flows.container_task import container_task
from flows.report.events import FINISHED, STARTED
from flows.runtime.context import Job
from flows.runtime.driver import drive
from flows.runtime.lifecycle import Step
from flows.runtime.store import AttemptStore, Busy, RecordUnreadable
from tests.flow_process import flow_process
from tests.gateway import Gateway
from tests.runs import left_on_engine, until_async

LOGGER = logging.getLogger(__name__)


class DrivenRun:
    """One run; `client` asks its server."""

    def __init__(self, client: PrefectClient, run: FlowRun, jobs_folder: Path) -> None:
        self.client = client
        self.run = run
        self.id = str(run.id)
        self.jobs_folder = jobs_folder
        self.store = AttemptStore(jobs_folder, self.id)
        self.record = jobs_folder / ".runs" / f"{self.id}.json"

    @classmethod
    async def submitted(
        cls, client: PrefectClient, payload: object, jobs_folder: Path
    ) -> "DrivenRun":
        flow_id = await client.create_flow(container_task)
        deployment = await client.create_deployment(flow_id, name=f"driven-{uuid4()}")
        run = await client.create_flow_run_from_deployment(
            deployment, parameters={"payload": payload}, state=Scheduled()
        )
        return cls(client, run, jobs_folder)

    async def claimed(self) -> None:
        """As its worker does before it gives it to a process."""
        pending: State[None] = Pending()
        await self.client.set_flow_run_state(self.run.id, pending)

    async def carried(self) -> State[Any]:
        """The state to which a process brings it, by running its flow here."""
        flow: Any = container_task
        await self.claimed()
        now = await self.client.read_flow_run(self.run.id)
        return cast(State[Any], await run_flow(flow, flow_run=now, return_type="state"))  # type: ignore[misc]

    async def dies_at(self, api: Gateway, request: bytes) -> None:
        """Have a process carry it, and kill that at a request which never comes through."""
        await self.claimed()
        with api.holding(request) as asked, flow_process(self.run, f"{api.http}/api"):
            await until_async(asked.is_set, 120)

    async def dies_at_work(self) -> None:
        """Have a process carry it, and kill that once its `waiting` container has said so."""
        await self.claimed()
        with flow_process(self.run):
            await until_async(lambda: self.is_at_work, 120)

    @property
    def is_at_work(self) -> bool:
        """Whether a process carries it, and its container has said something."""
        try:
            with self.store.held():
                return False
        except Busy:
            pass
        try:
            newest = self.store.last()
        except RecordUnreadable:
            return False
        log = self.record.with_suffix(".runner.log")
        return bool(newest and newest.began and log.exists() and log.read_text())

    def let_end(self) -> None:
        """What a `waiting` task waits for."""
        (self.jobs_folder / self.id / "artifacts/container/go").touch()

    async def driven(self) -> list[Step]:
        return await drive(Job(self.store, LOGGER), self.client)

    async def retried(self) -> None:
        """As somebody does in the UI."""
        state: State[None] = Scheduled(name="AwaitingRetry", message="Retry from the UI")
        await self.client.set_flow_run_state(self.run.id, state)

    async def state(self) -> State[Any]:
        state = (await self.client.read_flow_run(self.run.id)).state
        assert state is not None
        return state

    async def kinds(self) -> list[StateType]:
        """The types of all its states, oldest first."""
        states = await self.client.read_flow_run_states(self.run.id)
        return [each.type for each in sorted(states, key=lambda each: each.timestamp)]

    async def events(self) -> Counter[tuple[str, int]]:
        """How often each event of each attempt is stored."""
        wanted = EventFilter(
            event=EventNameFilter(name=[STARTED, FINISHED]),
            resource=EventResourceFilter(id=[f"moonmind.task.{self.id}"]),
        )
        page = await self.client.read_events(filter=wanted, limit=50)
        return Counter((each.event, int(each.payload["attempt"])) for each in page.events)

    async def assert_told_once(self, attempts: int) -> None:
        """Both events of each attempt, once, and nothing left on the engine."""
        numbers = range(1, attempts + 1)
        expected = Counter((event, number) for event in (STARTED, FINISHED) for number in numbers)
        deadline = time.monotonic() + 120
        while await self.events() != expected and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        assert await self.events() == expected
        await until_async(lambda: left_on_engine(self.id) == [])
