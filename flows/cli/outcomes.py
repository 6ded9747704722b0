"""How a run ended, by its final state alone: files in its folder are the task's to write. Pure."""

from prefect.client.schemas.objects import FlowRun, State

from flows.cli.exit_status import ExitStatus
from flows.outcome import OutcomeName
from flows.report.sentences import outcome_of_state


def outcome_name(run: FlowRun) -> OutcomeName | None:
    """The outcome of a run that is over; None of one that is not."""
    state: State[object] | None = run.state
    if state is None or not state.is_final():
        return None
    return outcome_of_state(state.type, state.name or "")


def exit_status(outcome: OutcomeName | None) -> ExitStatus:
    """What a shell gets for it; 0 while nobody knows how it ends."""
    return ExitStatus[outcome.name] if outcome else ExitStatus.SUCCEEDED


def summary(run: FlowRun) -> str:
    """The run's state and its sentence, on one line."""
    state, outcome = run.state, outcome_name(run)
    if state is None:
        return "has no state yet"
    shown = str(outcome) if outcome else state.name or str(state.type)
    waiting = [tag for tag in run.tags if tag.startswith("waiting for ")]
    sentence = state.message or "; ".join(waiting)
    return f"{shown}: {sentence}" if sentence else shown
