"""Fold the events of a pull into layers, bytes and percent. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flows.units import size

_DIGEST = re.compile(r"Digest: (sha256:[0-9a-f]{64})")
_UP_TO_DATE = "Status: Image is up to date"
# Of a layer's way, as the time goes.
_DOWNLOAD_SHARE = 0.8


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
        if found := _DIGEST.match(status):
            return replace(self, digest=found[1])
        if status.startswith(_UP_TO_DATE):
            return replace(self, up_to_date=True)
        name = str(event.get("id") or "")
        layer = _moved(self.layers.get(name, Layer()), status, event)
        if not name or layer is None:
            return self
        return replace(self, layers={**self.layers, name: layer})

    @property
    def begun(self) -> bool:
        """Whether there is anything to download."""
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
        shares = sum(layer.share for layer in self.layers.values())
        return round(100 * shares / len(self.layers), 1)

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
