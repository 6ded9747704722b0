"""Fold the events of a pull into layers, bytes and percent, and tell an observer meanwhile; and
flock per image, so that one process of a host pulls it, whatever others want it too.

The kernel lets go of a lock when its holder dies. A holder removes the file when it is through; a
pull that failed is written into it before that, for those who wait: they have the file open.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from flows.units import size

Take = Callable[[Mapping[str, Any]], None]
# Of a layer's way, as the time goes.
_DOWNLOAD_SHARE = 0.8
_MAX_LAYERS = 500


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer on its way; sizes in packed bytes, `total` 0 until the engine tells it."""

    downloaded: int = 0
    extracted: int = 0
    total: int = 0
    present: bool = False
    done: bool = False

    @property
    def share(self) -> float:
        """How much of its way is behind it, from 0 to 1."""
        if self.done or not self.total:
            return float(self.done)
        unpacked = (1 - _DOWNLOAD_SHARE) * self.extracted / self.total
        return min(1.0, _DOWNLOAD_SHARE * self.downloaded / self.total + unpacked)


@dataclass(frozen=True, slots=True)
class PullProgress:
    """What the events of one pull came to so far."""

    layers: Mapping[str, Layer] = field(default_factory=dict)
    digest: str = ""
    up_to_date: bool = False

    def after(self, event: Mapping[str, Any]) -> "PullProgress":
        """The progress once `event` is known; what it does not know changes nothing."""
        status = str(event.get("status") or "")
        if found := re.match(r"Digest: (sha256:[0-9a-f]{64})", status):
            return replace(self, digest=found[1])
        if status.startswith("Status: Image is up to date"):
            return replace(self, up_to_date=True)
        name = str(event.get("id") or "")
        layer = _moved(self.layers.get(name, Layer()), status, event)
        # No image has so many, and no engine speaks of others.
        is_too_many = name not in self.layers and len(self.layers) >= _MAX_LAYERS
        if not name or layer is None or is_too_many:
            return self
        return replace(self, layers={**self.layers, name: layer})

    @property
    def begun(self) -> bool:
        return any(not layer.present for layer in self.layers.values())

    @property
    def bytes(self) -> int:
        """Downloaded so far, packed."""
        return sum(layer.downloaded for layer in self.layers.values())

    @property
    def percent(self) -> float:
        """How much of the way is behind it, each layer counting the same."""
        if not self.layers:
            return 0.0
        return round(100 * sum(layer.share for layer in self.layers.values()) / len(self.layers), 1)

    def __str__(self) -> str:
        """`3 of 7 layers, 120 MiB of 1.2 GiB`."""
        if not self.layers:
            return "waiting for the registry"
        done = sum(layer.done for layer in self.layers.values())
        total_bytes = sum(layer.total for layer in self.layers.values())
        in_bytes = f"{size(self.bytes)} of {size(total_bytes)}"
        return f"{done} of {len(self.layers)} layers, {in_bytes}"


def _moved(layer: Layer, status: str, event: Mapping[str, Any]) -> Layer | None:
    """The layer after the event; None for what tells nothing of a layer."""
    detail = event.get("progressDetail") or {}
    current, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
    total = total if total > 0 else layer.total
    match status:
        case "Pulling fs layer":
            return layer
        case "Already exists":
            return replace(layer, present=True, done=True)
        case "Downloading":
            return replace(layer, downloaded=current, total=total)
        case "Verifying Checksum" | "Download complete":
            return replace(layer, downloaded=layer.total)
        case "Extracting":
            return replace(layer, downloaded=total, extracted=current, total=total)
        case "Pull complete":
            return replace(layer, downloaded=layer.total, done=True)
    return None


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
    look_seconds = min(0.5, observer.say_seconds, observer.show_seconds)
    while True:
        await asyncio.sleep(look_seconds)
        progress, now = events.progress, time.monotonic()
        if now - said >= observer.say_seconds:
            observer.say(f"Pulling {image}: {progress}")
            said = now
        if progress.begun and now - shown >= observer.show_seconds:
            await observer.show(progress.percent, f"{image}: {progress}")
            shown = now
