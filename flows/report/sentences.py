"""What the states of a run and of its stages say: the sentence that a person reads first. Pure."""

from flows.attempt import Upload
from flows.outcome import FAILURE_OF, OUTCOMES, Outcome, OutcomeName
from flows.outputs.verdict import failed_tests, passed_tests
from flows.text import last_line
from flows.workspace.logs import LogFacts

_LAST_LINE_LENGTH = 200
_OF_NAME = {kind.state_name: outcome for outcome, kind in OUTCOMES.items() if kind.state_name}
_OF_TYPE = {"CRASHED": OutcomeName.INFRASTRUCTURE} | {
    kind.state_type: outcome for outcome, kind in OUTCOMES.items() if kind.state_type != "FAILED"
}


def state_name(outcome: Outcome) -> str | None:
    """The name of the flow run's final state, where it is not its type's own."""
    return OUTCOMES[outcome.name].state_name


def outcome_of_state(kind: str, name: str) -> OutcomeName:
    """How a run ended, by the type and the name of its final state."""
    return _OF_TYPE.get(kind) or _OF_NAME.get(name, OutcomeName.FAILED)


def stage_name(outcome: Outcome) -> str:
    """The name of the state of the stage that ended the run's work."""
    own = outcome.failure_class and FAILURE_OF[outcome.failure_class].stage_name
    exited = "Failed" if outcome.exit_code is None else f"Exited {outcome.exit_code}"
    return own or state_name(outcome) or exited


def state_message(
    outcome: Outcome, log: LogFacts | None = None, upload: Upload | None = None
) -> str:
    """What a person reads first: how it ended, and what to do next."""
    succeeded = outcome.name is OutcomeName.SUCCEEDED
    message = _success(outcome) if succeeded else outcome.error or str(outcome.name)
    if upload and upload.error:
        message = f"{message}. {not_uploaded(upload)}"
    last = last_line(log.tail, _LAST_LINE_LENGTH) if log and not succeeded else ""
    return f"{message}. Its last line: {last}" if last else message


def _success(outcome: Outcome) -> str:
    tests = outcome.results.tests if outcome.results else None
    if tests is None or not tests.total:
        return "exited 0"
    if tests.not_passed:
        return f"exited 0, though {failed_tests(tests)}"
    return f"exited 0, {passed_tests(tests)}"


def not_uploaded(upload: Upload) -> str:
    """That the files are still on their host, and why."""
    return f"Its files are on its host and not uploaded: {upload.error}; the sweep tries again"
