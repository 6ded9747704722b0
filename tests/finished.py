"""Jobs that are over, as the attempt store has them, without an engine that ran them."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from flows.attempt import Attempt, Executed, Prepared, RetryRules
from flows.outcome import Outcome, OutcomeName
from flows.runtime.store import AttemptStore
from flows.spec import Run
from flows.workspace.folder import Workspace
from flows.workspace.logs import LogFacts
from tests.runs import payload
from tests.specs import compiled

LOG = LogFacts(bytes=0, lines=0, dropped_from_ui=0, error=None, tail="")


def finished(root: Path, *, job_id: str = "", attempt: int = 1, published: bool = True) -> Attempt:
    """An attempt that has ended, in the store below `root`, with an empty artifacts folder."""
    job_id = job_id or str(uuid4())
    workspace = Workspace(root, job_id)
    run = Run(job_id, attempt=attempt, worker="host-1", now=datetime.now(UTC))
    spec = compiled(payload("true"), workspace.mount, run)
    workspace.artifacts.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    made = Attempt(
        Prepared(workspace, spec, None, None, None, RetryRules(0, 0, {}), 0.1),
        started_at=now,
        began=True,
        executed=Executed(Outcome(OutcomeName.SUCCEEDED, exit_code=0), LOG, now, now),
        published=published,
    )
    store = AttemptStore(root, job_id)
    with store.held(make=True):
        store.put(made)
    return made
