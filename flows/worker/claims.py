"""The claim loop of a worker: engine healthy, ask, decide, claim, in one turn and from its answer.

Never more is claimed than can begin now: what is claimed and has not begun is bounded, and what
does not begin is given back.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from uuid import UUID

import anyio
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

from flows.runtime.cancellation import Cancellation
from flows.settings import HostSettings
from flows.units import NOTHING, Resources
from flows.worker.admission import Admission, Decision, admit
from flows.worker.claim import claim, give_back
from flows.worker.gate import EngineGate
from flows.worker.judgements import Judgements
from flows.worker.queue import PoolQueues
from flows.worker.run_notes import reject, tag_waiting
from flows.workspace.logs import Logger

# How many may be claimed and not have begun yet: a burst must not starve what it begins.
_BEGINNING = 20
# Many runs that are submitted at once are asked for together.
_GATHER_SECONDS = 0.1
# Whether a claim was taken whose answer did not come by then, is found out later.
_CLAIM_SECONDS, _LAST_CLAIM_SECONDS = 60.0, 5.0
# Of all that waits, the server is not asked more often for mere news.
_BEHIND_SECONDS = 5.0
# Of tags that are written side by side.
_WRITERS = 10


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A flow run that this process runs: what is set aside for it, how it is stopped, whether it
    has a tag that tells what it waited for, and, once its state is Running, that it has begun."""

    flow_run: FlowRun
    cancellation: Cancellation = field(default_factory=Cancellation)
    needs: Resources = NOTHING
    had_tag: bool = False
    begun: Event = field(default_factory=Event)


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims: a worker, on its host, from the queues of its pool.

    `message` is what its claims say, and no other worker's; `carry` begins to run what was claimed,
    and is False where the worker has ended; `set_aside` is what others than its runs take.
    """

    client: PrefectClient
    host: HostSettings
    queues: PoolQueues
    message: str
    limit: int | None
    logger: Logger
    run_logger: Callable[[FlowRun], Logger]
    carry: Callable[[ClaimedRun], bool]
    set_aside: Callable[[], Resources] = lambda: NOTHING


@dataclass(slots=True)
class _Turn:
    """One turn: the runs that it has seen, whether one of them waits, the room kept for such."""

    seen: set[UUID] = field(default_factory=set)
    waits: bool = False
    kept: Resources = NOTHING


class ClaimLoop:
    """Claims what fits the host, as long as its worker lives; `claimed` are all that it carries."""

    def __init__(
        self, claimant: Claimant, claimed: dict[UUID, ClaimedRun], gate: EngineGate | None = None
    ) -> None:
        self._who = claimant
        self._claimed = claimed
        self.gate = gate or EngineGate(claimant.host, claimant.logger)
        self._known = Judgements(claimant.host)
        self._doubtful: dict[UUID, FlowRun] = {}
        self._behind_at = 0.0
        self._has_news = True
        self._wants_more = False
        self._is_over = False
        self._begun = 0
        self._released = asyncio.Event()
        self._limits: set[asyncio.Timeout] = set()
        self._turn = asyncio.Lock()
        self._woken = asyncio.Event()

    def wake(self, *, has_news: bool = True) -> None:
        """Have the loop look soon: there may be work, or without news, room for what waits."""
        self._has_news |= has_news
        self._woken.set()

    def stop(self) -> None:
        """Claim nothing more, and wait for no answer for long."""
        self._is_over = True
        until = asyncio.get_running_loop().time() + _LAST_CLAIM_SECONDS
        for each in self._limits:
            # One that is over already ends by itself.
            with contextlib.suppress(RuntimeError):
                each.reschedule(until)

    async def look_when_woken(self) -> None:
        """A turn whenever there may be something to claim, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds_to_next()):
                    await self._woken.wait()
            self._woken.clear()
            await self.look()
            await asyncio.sleep(_GATHER_SECONDS)

    async def look(self) -> None:
        """One turn."""
        has_news, self._has_news = self._has_news, False
        try:
            async with self._turn:
                await self._settle_doubtful()
                if self._places() and await self.gate.opens():
                    await self._claim_what_fits(has_news=has_news)
                else:
                    self._wants_more = self._has_news = True
        except Exception as error:  # noqa: BLE001 - the next poll asks again
            self._has_news = True
            self._who.logger.warning("Could not ask for work: %s", error)

    async def until_idle(self, poll: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Poll, each time nothing is carried any more and at least every so many seconds, until
        nothing was begun since the last time."""
        before = -1
        while self._claimed or self._begun != before:
            before = self._begun
            await poll()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while self._claimed:
                        self._released.clear()
                        await self._released.wait()

    def note_begun(self) -> None:
        """Take that a claimed run has begun: there is a place for the next."""
        if self._wants_more:
            self.wake(has_news=False)

    def release(self, run_id: UUID) -> None:
        """Give the room of a run that is over to the next."""
        del self._claimed[run_id]
        self._released.set()
        self.wake(has_news=False)

    async def give_back(self, flow_run: FlowRun) -> None:
        """Put a claimed run that has not begun back into its queue; later, if it cannot be now."""
        self._known.refused(flow_run.id)
        try:
            async with self._limit():
                await give_back(self._who.client, flow_run, self._who.message)
        except Exception as error:  # noqa: BLE001 - of a server that is away comes almost anything
            self._doubtful[flow_run.id] = flow_run
            self._who.logger.warning("Could not give %s back yet: %r", flow_run.id, error)

    def _seconds_to_next(self) -> float | None:
        waits = (self.gate.seconds_to_try or None, self._who.queues.seconds_to_next())
        return min((each for each in waits if each is not None), default=None)

    def _places(self) -> int:
        """How many runs may begin now."""
        unbegun = sum(not each.begun.is_set() for each in self._claimed.values())
        places = _BEGINNING - unbegun
        if self._who.limit is not None:
            places = min(places, self._who.limit - len(self._claimed))
        if self.gate.at_most is not None:
            places = min(places, self.gate.at_most)
        # Where the engine failed those before, one is begun and then waited for.
        is_shut = self._is_over or self.gate.seconds_to_try > 0
        return 0 if is_shut else max(0, places)

    async def _settle_doubtful(self) -> None:
        doubtful, self._doubtful = self._doubtful, {}
        for flow_run in doubtful.values():
            await self.give_back(flow_run)

    async def _claim_what_fits(self, *, has_news: bool) -> None:
        turn = _Turn()
        self._wants_more = False
        while places := self._places():
            limit = min(self._who.queues.page, self._known.waiting + places)
            page = await self._who.queues.due(limit)
            begun = await self._take(turn, page)
            if turn.waits:
                is_due = has_news and time.monotonic() >= self._behind_at
                self._has_news |= has_news and not is_due
                if is_due or self._known.may_fit(self._free(turn), turn.seen):
                    await self._look_behind(turn)
                return
            if not begun or len(page) < limit:
                return
        self._wants_more = True

    async def _look_behind(self, turn: _Turn) -> None:
        """Look for what fits behind those that wait, however many these are."""
        self._behind_at = time.monotonic() + _BEHIND_SECONDS
        async for page in self._who.queues.behind(turn.seen):
            await self._take(turn, page)
            if not self._places():
                self._wants_more = True
                return

    async def _take(self, turn: _Turn, page: Sequence[FlowRun]) -> int:
        """Claim what may start of these, and say of the others why not; how many were begun."""
        new = {run.id: run for run in page if run.id not in self._claimed.keys() | turn.seen}
        turn.seen |= new.keys()
        tasks = await self._known.tasks(self._who.client, list(new.values()))
        total, places = self.gate.total, self._places()
        used = total - self._free(turn)
        decisions = admit(tasks, total, used, self._who.host.worker, places)
        needs = {task.id: task.needs for task in tasks}
        starts = [new[key] for key in _those(decisions, Decision.START)]
        begun = await self._claim_all(starts, needs)
        turn.kept += sum(
            (decisions[key].reserved for key in _those(decisions, Decision.WAIT)), NOTHING
        )
        turn.waits |= begun < len(new)
        await self._tell(new, decisions)
        return begun

    def _free(self, turn: _Turn) -> Resources:
        used = sum((each.needs for each in self._claimed.values()), NOTHING)
        return self.gate.total - used - turn.kept - self._who.set_aside()

    async def _claim_all(self, runs: Sequence[FlowRun], needs: Mapping[UUID, Resources]) -> int:
        # Around all of them, for a shield inside a gathered task would shield nothing.
        begun = list[bool]()
        with anyio.CancelScope(shield=True):
            begun = await asyncio.gather(*(self._begin(run, needs[run.id]) for run in runs))
        return sum(begun)

    async def _begin(self, flow_run: FlowRun, needs: Resources) -> bool:
        """Claim a run and begin with it; whether it is ours."""
        run_id, had_tag = flow_run.id, self._known.take(flow_run.id)
        claimed = self._claimed[run_id] = ClaimedRun(flow_run, needs=needs, had_tag=had_tag)
        if await self._is_claimed(flow_run):
            self.gate.note_begun()
            if not self._is_over and self._who.carry(claimed):
                self._begun += 1
                return True
            await self.give_back(flow_run)
        del self._claimed[run_id]
        return False

    async def _is_claimed(self, flow_run: FlowRun) -> bool:
        try:
            async with self._limit():
                refusal = await claim(self._who.client, flow_run, self._who.message)
        except Exception as error:  # noqa: BLE001 - of a server that is away comes almost anything
            self._doubtful[flow_run.id] = flow_run
            self._who.logger.warning("Could not claim %s: %r", flow_run.id, error)
            return False
        if refusal is not None and self._known.refused(flow_run.id):
            self._who.run_logger(flow_run).info(
                "Not claimed by %s: %s", self._who.host.worker, refusal
            )
        return refusal is None

    @contextlib.asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        """Time for one claim; `TimeoutError` after it."""
        limit = asyncio.timeout(_LAST_CLAIM_SECONDS if self._is_over else _CLAIM_SECONDS)
        try:
            async with limit:
                self._limits.add(limit)
                yield
        finally:
            self._limits.discard(limit)

    async def _tell(
        self, runs: Mapping[UUID, FlowRun], decisions: Mapping[UUID, Admission]
    ) -> None:
        """Say on the runs that wait what for, and reject those that can never start."""
        writers = asyncio.Semaphore(_WRITERS)

        async def tell(run: FlowRun, sentence: str) -> None:
            async with writers:
                self._who.run_logger(run).info("It is %s", sentence)
                await tag_waiting(self._who.client, run, sentence)

        waits = {key: decisions[key].sentence for key in _those(decisions, Decision.WAIT)}
        new = [key for key, sentence in waits.items() if self._known.tells(key, sentence)]
        await asyncio.gather(*(tell(runs[key], waits[key]) for key in new))
        for key in _those(decisions, Decision.REJECT):
            if await self._is_claimed(runs[key]):
                await reject(self._who.client, runs[key], decisions[key].sentence)


def _those(decisions: Mapping[UUID, Admission], wanted: Decision) -> Collection[UUID]:
    return [key for key, each in decisions.items() if each.decision is wanted]
