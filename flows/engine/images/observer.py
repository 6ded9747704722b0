"""Report a pull while it goes on: its events go from the reading thread to an observer."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from flows.engine.images.progress import PullProgress

Take = Callable[[Mapping[str, Any]], None]

_LOOK_SECONDS = 0.5


class PullObserver:
    """Is told of a pull: a sentence every `say_seconds` at most while it goes on, and how far it is
    every `show_seconds`. Never raises; this one keeps it to itself."""

    say_seconds = 5.0
    show_seconds = 2.0

    def say(self, sentence: str) -> None:
        """Note one sentence in the log."""

    async def show(self, percent: float, description: str) -> None:
        """Show how far the pull is, from 0 to 100."""


class _Events:
    """The events of one pull, folded: taken in the thread that reads, seen by the loop."""

    def __init__(self) -> None:
        self.progress = PullProgress()

    def take(self, event: Mapping[str, Any]) -> None:
        self.progress = self.progress.after(event)


@asynccontextmanager
async def observed(image: str, observer: PullObserver) -> AsyncIterator[_Events]:
    """Report how a pull goes while the block runs, and how it stood at the end."""
    events = _Events()
    observer.say(f"Pulling {image}")
    reporting = asyncio.ensure_future(_report(image, events, observer))
    try:
        yield events
    finally:
        reporting.cancel()
    with suppress(asyncio.CancelledError):
        await reporting
    if events.progress.begun:
        await observer.show(events.progress.percent, f"{image}: {events.progress}")


async def _report(image: str, events: _Events, observer: PullObserver) -> None:
    said, shown = time.monotonic(), -observer.show_seconds
    look_seconds = min(_LOOK_SECONDS, observer.say_seconds, observer.show_seconds)
    while True:
        await asyncio.sleep(look_seconds)
        progress, now = events.progress, time.monotonic()
        if now - said >= observer.say_seconds:
            observer.say(f"Pulling {image}: {progress}")
            said = now
        if progress.begun and now - shown >= observer.show_seconds:
            await observer.show(progress.percent, f"{image}: {progress}")
            shown = now
