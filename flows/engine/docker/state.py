"""A container's state, out of what the engine's inspect says."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flows.engine.types import ContainerState


def state_of(found: Mapping[str, Any]) -> ContainerState:
    """What `State` of an inspect comes to."""
    never_ran = found["Status"] == "created" and not found["Error"]
    return ContainerState(
        running=bool(found["Running"]),
        exit_code=None if found["Running"] or never_ran else int(found["ExitCode"]),
        oom_killed=bool(found["OOMKilled"]),
        error=str(found["Error"]),
        started_at=_parse_time(found["StartedAt"]),
        finished_at=_parse_time(found["FinishedAt"]),
        paused=bool(found["Paused"]),
    )


def _parse_time(value: str) -> datetime | None:
    """RFC 3339, or None for the zero time that Docker writes for "never"."""
    return None if value.startswith("0001-") else datetime.fromisoformat(value)
