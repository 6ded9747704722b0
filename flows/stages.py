"""What one stage of a run hands to the next: plain frozen values, nothing live."""

from dataclasses import dataclass
from datetime import datetime

from flows.execution import Outcome
from flows.logs import LogFacts
from flows.spec import ContainerSpec
from flows.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Prepared:
    """What runs, and where. `repository` is the payload's, without credentials."""

    workspace: Workspace
    spec: ContainerSpec
    repository: str | None
    commit: str | None
    instructions: str | None


@dataclass(frozen=True, slots=True)
class Executed:
    """How it ran; the times are those of the stage, in UTC."""

    outcome: Outcome
    log: LogFacts
    started_at: datetime
    finished_at: datetime
