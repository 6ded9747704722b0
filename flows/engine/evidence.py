"""What an engine's event log says about the end of one container. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ACTIONS = ("kill", "oom", "die", "destroy")
"""What is asked for. A stop from outside shows in the signals it sends."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What happened to one container in a window of time, by the engine's own record.

    `signals` are those that somebody sent through the engine, in their order: a container that
    ends by itself has none, whatever its exit code. A signal that the kernel or another process
    of the host sent is not among them. `exit_code` is None where no end is on record: engines
    keep the last 256 events of all their containers, so its absence proves nothing.
    """

    signals: tuple[int, ...] = ()
    oom: bool = False
    exit_code: int | None = None
    destroyed: bool = False


def fold(name: str, events: Iterable[Mapping[str, Any]]) -> Evidence:
    """The evidence about the container `name` in events of `GET /events`."""
    # The engine's own filter takes a name for the beginning of one.
    own = [event for event in events if event["Actor"]["Attributes"].get("name") == name]
    actions = {event["Action"] for event in own}
    exit_codes = _numbers(own, "die", "exitCode")
    return Evidence(
        signals=_numbers(own, "kill", "signal"),
        oom="oom" in actions,
        exit_code=exit_codes[-1] if exit_codes else None,
        destroyed="destroy" in actions,
    )


def _numbers(events: Iterable[Mapping[str, Any]], action: str, key: str) -> tuple[int, ...]:
    return tuple(
        int(event["Actor"]["Attributes"][key]) for event in events if event["Action"] == action
    )
