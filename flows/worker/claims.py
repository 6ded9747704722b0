"""The claim loop of a worker: ask its pool for due flow runs, decide, claim, carry, release."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import anyio
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.types._datetime import now

from flows.runtime.cancellation import Cancellation
from flows.settings import HostSettings
from flows.units import NOTHING, Resources
from flows.worker.admission import Admission, Decision, admit, capacity
from flows.worker.claim import claim
from flows.worker.queue import QueuedRun, RunQueue, fetch_scheduled
from flows.worker.run_notes import reject, tag_waiting
from flows.workspace.logs import Logger

# How many runs are asked for at a time, beyond those that are known to wait.
_BATCH = 20
# Many runs that are submitted at once are asked for together.
_GATHER_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A flow run that this process runs, what is set aside for it, and how it is stopped."""

    queued: QueuedRun
    cancellation: Cancellation


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims: a worker of a pool's queues (all of them where there are none), on its host.

    `message` is what its claims say, and no other worker's; `carry` begins to run what was claimed,
    and is False where the worker has ended; `set_aside` is what others than its runs take.
    """

    client: PrefectClient
    host: HostSettings
    pool: str
    queues: frozenset[str]
    message: str
    limit: int | None
    prefetch_seconds: float
    logger: Logger
    run_logger: Callable[[FlowRun], Logger]
    carry: Callable[[ClaimedRun], bool]
    set_aside: Callable[[], Resources]


class ClaimLoop:
    """Claims what fits the host, as long as its worker lives; `claimed` are all that it carries."""

    def __init__(self, claimant: Claimant, claimed: dict[UUID, ClaimedRun]) -> None:
        self._who = claimant
        self._claimed = claimed
        self._queue = RunQueue(claimant.host)
        self._total = NOTHING
        self._may_have_more = True
        self._claiming = asyncio.Lock()
        self._woken = asyncio.Event()

    def wake(self, *, may_have_more: bool = True) -> None:
        """Have the loop look, as there may be work, or room for it."""
        self._may_have_more |= may_have_more
        self._woken.set()

    async def start_when_woken(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._queue.seconds_to_next()):
                    await self._woken.wait()
            self._woken.clear()
            await self.start_what_fits()
            await asyncio.sleep(_GATHER_SECONDS)

    async def poll(self) -> list[FlowRun]:
        """The backstop of the events."""
        self._may_have_more = True
        return await self.start_what_fits()

    async def start_what_fits(self) -> list[FlowRun]:
        started: list[FlowRun] = []
        who = self._who
        try:
            async with self._claiming:
                self._total = self._total or await capacity(who.host, who.logger)
                while slots := self._slots():
                    fetches = self._may_have_more and self._queue.startable < slots
                    if fetches:
                        await self._fetch(slots)
                    decisions = self._admit(slots)
                    begun = await self._claim_all(decisions)
                    told = await self._tag_or_reject(decisions)
                    started += begun
                    if not (fetches and self._may_have_more and (begun or told)):
                        break
        except Exception as error:  # noqa: BLE001 - the next poll asks again
            who.logger.warning("Could not ask for work: %s", error)
        return started

    def release(self, run_id: UUID) -> None:
        """Give the room of a run that is over to the next."""
        del self._claimed[run_id]
        self.wake(may_have_more=False)

    def _slots(self) -> int:
        limit = self._who.limit
        return 1_000_000 if limit is None else max(0, limit - len(self._claimed))

    async def _fetch(self, slots: int) -> None:
        who, limit = self._who, min(200, self._queue.blocked + min(slots, _BATCH))
        before = now("UTC") + timedelta(seconds=who.prefetch_seconds)
        found = await fetch_scheduled(who.client, who.pool, who.queues, before, limit)
        self._may_have_more = len(found) == limit
        self._queue.replace(run for run in found if run.id not in self._claimed)

    def _admit(self, slots: int) -> Mapping[UUID, Admission]:
        used = sum((each.queued.task.needs for each in self._claimed.values()), NOTHING)
        used += self._who.set_aside()
        return admit(self._queue.due(), self._total, used, self._who.host.worker, slots)

    async def _claim_all(self, decisions: Mapping[UUID, Admission]) -> list[FlowRun]:
        start = [run_id for run_id, each in decisions.items() if each.decision is Decision.START]
        # What is claimed and never begun would be missed for minutes. Around all of them, for a
        # shield inside a gathered task would shield nothing.
        with anyio.CancelScope(shield=True):
            claimed = await asyncio.gather(*map(self._claim, start))
        return [flow_run for flow_run in claimed if flow_run]

    async def _claim(self, run_id: UUID) -> FlowRun | None:
        """Propose the state Pending for a run, and start it; None where another was faster."""
        claimed = ClaimedRun(self._queue.pop(run_id), Cancellation())
        self._claimed[run_id] = claimed
        flow_run = claimed.queued.flow_run
        if await self._is_claimed(flow_run) and self._who.carry(claimed):
            return flow_run
        self.release(run_id)
        return None

    async def _is_claimed(self, flow_run: FlowRun) -> bool:
        try:
            refusal = await claim(self._who.client, flow_run, self._who.message)
        except Exception as error:  # noqa: BLE001 - of a server that is away comes almost anything
            refusal = repr(error)
        if refusal is not None:
            self._who.run_logger(flow_run).info("Not claimed: %s", refusal)
        return refusal is None

    async def _tag_or_reject(self, decisions: Mapping[UUID, Admission]) -> bool:
        is_new, client = False, self._who.client
        for run_id, each in decisions.items():
            if each.decision is Decision.WAIT and (blocked := self._queue.block(run_id)):
                self._who.run_logger(blocked).info("It is %s", each.sentence)
                await tag_waiting(client, blocked, each.sentence)
            elif each.decision is Decision.REJECT:
                flow_run = self._queue.pop(run_id).flow_run
                if await self._is_claimed(flow_run):
                    await reject(client, flow_run, each.sentence)
            else:
                continue
            is_new = True
        return is_new
