"""The verdict on an attempt, by whichever process comes to it; see `flows.outputs.verdict`.

What a task left may be such that the process which looks at it dies. What is known of the run
without it, its exit code above all, is not to die with that.
"""

import traceback
from dataclasses import replace

from flows.attempt import Prepared
from flows.engine.contract import Engine
from flows.masking import Masker
from flows.outcome import Outcome
from flows.outputs.verdict import collected, judged, uncollected
from flows.results import Results
from flows.runtime.interrupts import to_the_end
from flows.runtime.reclaim import reclaim
from flows.runtime.store import Ledger
from flows.text import one_line
from flows.workspace.logs import Logger

# A worker may be restarted just then; to end a second time there is hardly chance.
_MAX_TRIES = 2
_DIED = (
    f"its outputs and test reports were left alone: {_MAX_TRIES} processes ended while they looked "
    "at them"
)


async def verdict(
    engine: Engine,
    ledger: Ledger,
    prepared: Prepared,
    masker: Masker | None,
    logger: Logger,
    outcome: Outcome,
) -> Outcome:
    """The outcome of a container that has stopped, by what it left; `masker` is None where its
    secrets are not known. Raises nothing: what goes wrong is told beside the outcome."""
    workspace, spec = prepared.workspace, prepared.spec

    async def look() -> Results:
        return collected(workspace, spec, masker, prepared.ready_ns)

    try:
        kept = await reclaim(engine, workspace, spec)
        outcome = replace(outcome, cleanup_error=kept)
        if _tries(ledger, spec.attempt) > _MAX_TRIES:
            return judged(outcome, uncollected(spec, masker, _DIED))
        # To its end: another process, or this one again, may be about to do the same.
        return judged(outcome, await to_the_end(look()))
    except Exception as error:  # noqa: BLE001 - of a stranger's files comes almost anything
        said = type(error).__name__
        if masker is not None:
            said = one_line(masker.text(f"{said}: {error}"), 200)
            where = masker.text("".join(traceback.format_exception(error)))
            logger.error("The outputs and test reports could not be looked at:\n%s", where)
        sentence = f"its outputs and test reports could not all be looked at ({said})"
        return judged(outcome, uncollected(spec, masker, sentence))


def _tries(ledger: Ledger, attempt: int) -> int:
    """How often this was begun, with this time."""
    try:
        return ledger.note_look(attempt)
    except OSError:
        # The task may have filled the disk. What room is kept for, the outcome needs.
        return 1
