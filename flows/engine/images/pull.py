"""Make a task's image present: look for it, check it, lock it, pull it with retries, and report.

Knows no Docker and no Prefect. Everything here counts towards the limit of the pull, and may be
cancelled at any time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from flows.engine.images.auth import Login, PrivateImages
from flows.engine.images.failures import image_error, not_present, other_platform, withheld
from flows.engine.images.lock import PullLock
from flows.engine.images.progress import PullObserver, PullProgress, Take, observed
from flows.engine.types import HelperImage, Image
from flows.errors import ImageCause, ImageError
from flows.payload.image_reference import ImageName, is_for
from flows.spec import ContainerSpec
from flows.units import size

T = TypeVar("T")
# A registry that counts requests wants longer pauses than one that restarts.
_RATE_LIMIT_FACTOR = 10.0
# Image, platform and mode of a pull.
PullRequest = ContainerSpec | HelperImage


class ImageStore(Protocol):
    """An engine's images, and the registries behind it."""

    async def look(self, name: str) -> Image | None:
        """The image that is present under the name; None where there is none."""

    async def fetch(
        self, request: PullRequest, login: Login | None, take: Take, inactivity_seconds: float
    ) -> None:
        """Pull the image once, whatever is present; `take` gets each event, from any thread.

        Raises `ImageError`, also where nothing came for `inactivity_seconds`. Once the caller is
        cancelled, the pull ends on the engine too, and no thread stays behind."""

    async def may_read(
        self, request: PullRequest, login: Login | None, inactivity_seconds: float
    ) -> None:
        """Ask the registry whether `login` may read the image. Raises `ImageError` if not, and
        where the registry gives no answer."""


async def _no_login(_registry: str) -> Login | None:
    return None


@dataclass(frozen=True, slots=True)
class PullOptions:
    """What the pull of one run is done with.

    `login_to` gives the log-in for a registry, or None. Without `lock`, nobody else pulls; without
    `private`, no image is held back. A pull is tried `tries` times where that may help, with pauses
    of `pause_seconds` and twice as long each time.
    """

    observer: PullObserver = field(default_factory=PullObserver)
    login_to: Callable[[str], Coroutine[Any, Any, Login | None]] = _no_login
    lock: PullLock | None = None
    private: PrivateImages | None = None
    inactivity_seconds: float = 120.0
    tries: int = 4
    pause_seconds: float = 1.0


async def ensure_image(store: ImageStore, request: PullRequest, options: PullOptions) -> Image:
    """Make the image present as `request.pull` says, and say how it came.

    An image that is present already is used only where the registry lets this run's log-in read
    it, and where it came without credentials if this run has none. Raises `EngineError`,
    `ImageError` above all, and `WorkspaceError`.
    """
    login_to = options.login_to(ImageName.parse(request.image).registry)
    if request.pull == "always":
        pull = _Pull(store, request, options, await login_to)
    else:
        login, present = await asyncio.gather(login_to, store.look(request.image))
        pull = _Pull(store, request, options, login)
        refusal = pull.refusal(present)
        if present is not None and refusal is None:
            return await pull.cached(present)
        if request.pull == "never":
            raise refusal or not_present(request.image)
    async with pull.locked() as waited:
        if waited and request.pull == "if-missing":
            present = await store.look(request.image)
            if present is not None and pull.refusal(present) is None:
                return await pull.cached(present)
        return await pull.pulled()


@dataclass(frozen=True, slots=True)
class _Pull:
    """One run's pull of one image."""

    store: ImageStore
    request: PullRequest
    options: PullOptions
    login: Login | None

    def refusal(self, present: Image | None) -> ImageError | None:
        """Why what is present is not for this run; None where it is."""
        request, private = self.request, self.options.private
        if present is None:
            return not_present(request.image)
        if not is_for(present.platform, request.platform):
            return other_platform(
                request.image, present.platform, request.platform or "", pulled=False
            )
        if self.login is None and private and private.has(present.id, request.image):
            return withheld(request.image)
        return None

    def locked(self) -> AbstractAsyncContextManager[bool]:
        """The image's lock; the value says whether it was waited for."""
        if self.options.lock is None:
            return nullcontext(False)
        waiting = f"Waiting for another run's pull of {self.request.image}"
        return self.options.lock.held(
            self.request.image, lambda: self.options.observer.say(waiting)
        )

    async def cached(self, present: Image) -> Image:
        """What is present, where the registry lets this run have it."""
        # One without a digest came from no registry: somebody put it on the host, for everybody.
        if self.login is not None and present.digest:
            seconds = self.options.inactivity_seconds
            await self._retried(partial(self.store.may_read, self.request, self.login, seconds))
        return replace(present, cache_hit=True, pulled_bytes=0, pull_seconds=0.0)

    async def pulled(self) -> Image:
        """The image, pulled by this run."""
        name, platform, private = self.request.image, self.request.platform, self.options.private
        started = time.monotonic()
        with self._marked_private():
            progress = await self._retried(self._fetched)
        present = await self.store.look(name)
        if present is None:
            raise image_error(name, "it is missing after the pull")
        if private and self.login:
            private.add(present.id)
        elif private:
            private.remove(name, present.id)
        if not is_for(present.platform, platform):
            raise other_platform(name, present.platform, platform or "", pulled=True)
        seconds = round(time.monotonic() - started, 3)
        digest = progress.digest or present.digest or present.id
        how = "is up to date" if progress.up_to_date else f"pulled {size(progress.bytes)}"
        self.options.observer.say(f"Pulled {name}: {digest}, {how}, in {seconds:.1f} s")
        return replace(
            present,
            digest=present.digest or progress.digest,
            cache_hit=progress.up_to_date,
            pulled_bytes=progress.bytes,
            pull_seconds=seconds,
        )

    @contextmanager
    def _marked_private(self) -> Iterator[None]:
        """Mark the name of an image that comes with a log-in before its first byte: the process
        may die between the pull and what follows."""
        private, name = self.options.private, self.request.image
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

    async def _fetched(self) -> PullProgress:
        request, options = self.request, self.options
        async with observed(request.image, options.observer) as events:
            await self.store.fetch(request, self.login, events.take, options.inactivity_seconds)
        return events.progress

    async def _retried(self, step: Callable[[], Awaitable[T]]) -> T:
        """What the step gives, tried again where that may help."""

        def say(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            pause = state.next_action.sleep if state.next_action else 0
            self.options.observer.say(
                f"Try {state.attempt_number} of {self.options.tries} failed: {error}. The next one "
                f"follows in {pause:g} s"
            )

        async def attempt() -> T:
            # tenacity awaits nothing but what it sees to be a coroutine function.
            return await step()

        return await AsyncRetrying(
            retry=retry_if_exception(
                lambda error: isinstance(error, ImageError) and error.may_pass
            ),
            wait=self._pause,
            stop=stop_after_attempt(self.options.tries),
            before_sleep=say,
            reraise=True,
        )(attempt)

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        limited = isinstance(error, ImageError) and error.cause is ImageCause.RATE_LIMITED
        factor = _RATE_LIMIT_FACTOR if limited else 1.0
        return float(factor * self.options.pause_seconds * 2 ** (state.attempt_number - 1))
