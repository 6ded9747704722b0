"""How a task gets its image: looked for, judged, pulled in turn, and told of while it comes.

Knows no Docker and no Prefect. Everything here counts towards the limit of the pull, and may be
cancelled at any time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from flows.engine.images.auth import Login
from flows.engine.images.failures import image_error, not_present, other_platform, withheld
from flows.engine.images.lock import Turns
from flows.engine.images.private import PrivateImages
from flows.engine.images.progress import PullProgress
from flows.engine.types import Image
from flows.errors import ImageCause, ImageError
from flows.payload.image_reference import ImageName, Wanted, is_for
from flows.units import size

T = TypeVar("T")
Take = Callable[[Mapping[str, Any]], None]

_LOOK_SECONDS = 0.5
# A registry that counts requests wants longer pauses than one that restarts.
_RATE_LIMIT_FACTOR = 10.0


class Source(Protocol):
    """Where images are: the engine, and behind it the registries."""

    async def look(self, name: str) -> Image | None:
        """The image that is present under the name; None where there is none."""

    async def fetch(
        self, spec: Wanted, login: Login | None, take: Take, inactivity_seconds: float
    ) -> None:
        """Pull `spec.image` once, whatever is present; `take` gets each event, from any thread.

        Raises `ImageError`, also where nothing came for `inactivity_seconds`. Once the caller is
        cancelled, the pull ends on the engine too, and no thread stays behind."""

    async def may_read(self, spec: Wanted, login: Login | None, inactivity_seconds: float) -> None:
        """Ask the registry whether `login` may read `spec.image`. Raises `ImageError` if not, and
        where the registry gives no answer."""


class Teller:
    """Who hears of a pull; this one keeps it to itself. Never raises.

    It hears a sentence every `say_seconds` at most while a pull goes on, and is shown how far it
    is every `show_seconds`.
    """

    say_seconds = 5.0
    show_seconds = 2.0

    def say(self, sentence: str) -> None:
        """Note one sentence in the log."""

    async def show(self, percent: float, description: str) -> None:
        """Show how far the pull is, from 0 to 100."""


async def _nobody(_registry: str) -> Login | None:
    return None


@dataclass(frozen=True, slots=True)
class Supply:
    """What the pull of one run is done with.

    `login_to` gives the log-in for a registry, or None. Without `turns`, nobody else pulls; without
    `private`, no image is held back. A pull is tried `tries` times where that may help, with pauses
    of `pause_seconds` and twice as long each time.
    """

    teller: Teller = field(default_factory=Teller)
    login_to: Callable[[str], Coroutine[Any, Any, Login | None]] = _nobody
    turns: Turns | None = None
    private: PrivateImages | None = None
    inactivity_seconds: float = 120.0
    tries: int = 4
    pause_seconds: float = 1.0


async def obtain(source: Source, spec: Wanted, supply: Supply) -> Image:
    """Make the image of `spec` present as `spec.pull` says, and say how it came.

    An image that is present already is used only where the registry lets this run's log-in read
    it, and where it came without credentials if this run has none. Raises `EngineError`,
    `ImageError` above all, and `WorkspaceError`.
    """
    looking = _nothing() if spec.pull == "always" else source.look(spec.image)
    registry = ImageName.parse(spec.image).registry
    login, present = await asyncio.gather(supply.login_to(registry), looking)
    order = _Order(source, spec, supply, login)
    if spec.pull != "always":
        refusal = order.refusal(present)
        if present is not None and refusal is None:
            return await order.cached(present)
        if spec.pull == "never":
            raise refusal or not_present(spec.image)
    async with order.turn() as waited:
        if waited and spec.pull == "if-missing":
            present = await source.look(spec.image)
            if present is not None and order.refusal(present) is None:
                return await order.cached(present)
        return await order.pulled()


async def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class _Order:
    """One run's wish for one image, and what it is judged by."""

    source: Source
    spec: Wanted
    supply: Supply
    login: Login | None

    def refusal(self, present: Image | None) -> ImageError | None:
        """Why what is present is not for this run; None where it is."""
        spec, private = self.spec, self.supply.private
        if present is None:
            return not_present(spec.image)
        if not is_for(present.platform, spec.platform):
            return other_platform(spec.image, present.platform, spec.platform or "", pulled=False)
        if self.login is None and private and private.has(present.id, spec.image):
            return withheld(spec.image)
        return None

    def turn(self) -> AbstractAsyncContextManager[bool]:
        """This run's turn to pull the image; the value says whether it waited for it."""
        if self.supply.turns is None:
            return nullcontext(False)
        waiting = f"Waiting for another run's pull of {self.spec.image}"
        return self.supply.turns.taken(self.spec.image, lambda: self.supply.teller.say(waiting))

    async def cached(self, present: Image) -> Image:
        """What is present, where the registry lets this run have it."""
        supply, login = self.supply, self.login
        # One without a digest came from no registry: somebody put it on the host, for everybody.
        if login is not None and present.digest:
            await self._patiently(
                partial(self.source.may_read, self.spec, login, supply.inactivity_seconds)
            )
        return replace(present, cache_hit=True, pulled_bytes=0, pull_seconds=0.0)

    async def pulled(self) -> Image:
        """The image, pulled by this run."""
        spec, private, started = self.spec, self.supply.private, time.monotonic()
        with self._marked():
            progress = await self._patiently(self._fetched)
        present = await self.source.look(spec.image)
        if present is None:
            raise image_error(spec.image, "it is missing after the pull")
        if private and self.login:
            private.add(present.id)
        elif private:
            private.remove(spec.image, present.id)
        if not is_for(present.platform, spec.platform):
            raise other_platform(spec.image, present.platform, spec.platform or "", pulled=True)
        seconds = round(time.monotonic() - started, 3)
        self._say_end(present, progress, seconds)
        return replace(
            present,
            digest=present.digest or progress.digest,
            cache_hit=progress.up_to_date,
            pulled_bytes=progress.bytes,
            pull_seconds=seconds,
        )

    @contextmanager
    def _marked(self) -> Iterator[None]:
        """Mark the name of an image that comes with a log-in before its first byte: the process
        may die between the pull and what follows."""
        private, name = self.supply.private, self.spec.image
        if private is None or self.login is None:
            yield
            return
        was_marked = private.has(name)
        private.add(name)
        try:
            yield
        except ImageError:
            # Nothing came, so what is there under the name is what it was.
            if not was_marked:
                private.remove(name)
            raise

    def _say_end(self, present: Image, progress: PullProgress, seconds: float) -> None:
        digest = progress.digest or present.digest or present.id
        how = "is up to date" if progress.up_to_date else f"pulled {size(progress.bytes)}"
        self.supply.teller.say(f"Pulled {self.spec.image}: {digest}, {how}, in {seconds:.1f} s")

    async def _fetched(self) -> PullProgress:
        spec, supply = self.spec, self.supply
        async with _told(spec.image, supply.teller) as news:
            await self.source.fetch(spec, self.login, news.take, supply.inactivity_seconds)
        return news.progress

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """What the step gives, tried again where that may help."""

        def say(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            pause = state.next_action.sleep if state.next_action else 0
            self.supply.teller.say(
                f"Try {state.attempt_number} of {self.supply.tries} failed: {error}. The next one "
                f"follows in {pause:g} s"
            )

        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            wait=self._pause,
            stop=stop_after_attempt(self.supply.tries),
            before_sleep=say,
            reraise=True,
        )

        async def attempt() -> T:
            # tenacity awaits nothing but what it sees to be a coroutine function.
            return await step()

        return await retrying(attempt)

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        limited = isinstance(error, ImageError) and error.cause is ImageCause.RATE_LIMITED
        factor = _RATE_LIMIT_FACTOR if limited else 1.0
        return float(factor * self.supply.pause_seconds * 2 ** (state.attempt_number - 1))


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, ImageError) and error.may_pass


class _News:
    """What is known of a pull; taken in the thread that reads, looked at in the loop that tells."""

    def __init__(self) -> None:
        self.progress = PullProgress()

    def take(self, event: Mapping[str, Any]) -> None:
        self.progress = self.progress.after(event)


@asynccontextmanager
async def _told(image: str, teller: Teller) -> AsyncIterator[_News]:
    """Tell how a pull goes while the block runs, and how it stood at the end."""
    news = _News()
    teller.say(f"Pulling {image}")
    telling = asyncio.ensure_future(_tell(image, news, teller))
    try:
        yield news
    finally:
        telling.cancel()
    with suppress(asyncio.CancelledError):
        await telling
    if news.progress.begun:
        await teller.show(news.progress.percent, f"{image}: {news.progress}")


async def _tell(image: str, news: _News, teller: Teller) -> None:
    said, shown = time.monotonic(), -teller.show_seconds
    look_seconds = min(_LOOK_SECONDS, teller.say_seconds, teller.show_seconds)
    while True:
        await asyncio.sleep(look_seconds)
        progress, now = news.progress, time.monotonic()
        if now - said >= teller.say_seconds:
            teller.say(f"Pulling {image}: {progress}")
            said = now
        if progress.begun and now - shown >= teller.show_seconds:
            await teller.show(progress.percent, f"{image}: {progress}")
            shown = now
