"""What is passed on of an answer that tells of others' objects as well. Pure."""

from collections.abc import Callable
from typing import Any

# What of an answer's JSON is passed on. Raises `TypeError`, `KeyError` for what is no such answer.
Told = Callable[[Any], Any]


def volume(found: dict[str, Any]) -> dict[str, Any]:
    """Without its options, which may have the password of somebody's share."""
    told = ("Name", "Driver", "Mountpoint", "Labels")
    return {key: value for key, value in found.items() if key in told}


def volumes(found: dict[str, Any]) -> dict[str, Any]:
    return {"Volumes": [volume(each) for each in found["Volumes"] or []]}


def containers(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without their commands: images hand a job's label on."""
    return [{key: each[key] for key in ("Id", "Names", "Labels")} for each in found]
