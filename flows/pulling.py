"""Read an engine's pull stream: layers on their way, and errors that arrive after a 200."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flows.errors import ImageError


def split_reference(image: str) -> tuple[str, str]:
    """Repository and tag or digest; a bare name means `latest`, never every tag there is."""
    if "@" in image:
        name, _, digest = image.partition("@")
        return re.sub(r":[\w.-]+$", "", name), digest
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "latest")


def follow(image: str, events: Iterable[Mapping[str, Any]]) -> None:
    """Consume the stream to its end; raise `ImageError` for an error reported inside it."""
    for event in events:
        if message := event.get("error"):
            raise image_error(image, str(message))


def image_error(image: str, message: str) -> ImageError:
    """One sentence for a pull that failed: what, why, and what to do."""
    words = message.strip().rstrip(".")
    return ImageError(f"cannot pull the image {image}: {words}; {_advice(words.lower())}")


def not_present(image: str) -> ImageError:
    return ImageError(
        f"the image {image} is not on this host and task.container.pull is 'never': load it "
        "there, or let the task pull it with 'if-missing'"
    )


def _advice(words: str) -> str:
    if any(word in words for word in ("not found", "manifest unknown", "does not exist")):
        return "check the name and the tag, and that the worker's registry log-in may read it"
    if any(word in words for word in ("denied", "unauthorized", "authentication")):
        return "check that the worker's registry log-in may read it"
    return "check that this host can reach the registry"
