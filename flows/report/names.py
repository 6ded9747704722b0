"""What Prefect shows of a run in a few words, and tells of it in events. Pure but for the sending.

The names, sentences, keys and events are published: users' automations match on them. Each event
has an id made of the job, the attempt and its name, so one that two hooks or two processes emit is
stored once. Automations cannot look into payloads: what they match on is among the labels, too.
"""

from flows.attempt import Upload
from flows.errors import PayloadError
from flows.masking import Masker
from flows.outcome import FAILURE_OF, OUTCOMES, Outcome, OutcomeName
from flows.outputs.verdict import failed_tests, passed_tests
from flows.payload.parse import parse
from flows.payload.repository import Remote
from flows.spec import command_summary
from flows.text import last_line, one_line
from flows.workspace.logs import LogFacts

# A refusal tells all faults at once; the report has them whole.
_MAX_MESSAGE = 2000
FLOW_NAME = "container-task"
# Of the artifacts that tell of a run; published.
REPORT_KEY = "container-run"
METADATA_KEY = "container-run-metadata"
TESTS_KEY = "container-run-tests"
OUTPUTS_KEY = "container-run-outputs"
USAGE_KEY = "container-run-usage"
FILES_KEY = "container-run-files"
PROGRESS_KEY = "container-run-progress"
PULL_PROGRESS_KEY = "image-pull"
# A page shows some hundred characters of a name.
_LONGEST_NAME = 250
_OF_NAME = {kind.state_name: outcome for outcome, kind in OUTCOMES.items() if kind.state_name}
_OF_TYPE = {"CRASHED": OutcomeName.INFRASTRUCTURE} | {
    kind.state_type: outcome for outcome, kind in OUTCOMES.items() if kind.state_type != "FAILED"
}


def run_name(raw: object, masker: Masker | None = None) -> str:
    """A name of one line for the run of `raw`; a payload that is refused still gets one.

    `masker` knows every secret of the run. Before anybody has read them, a payload that names some
    gets a name without its command.
    """
    return one_line(_run_name(raw, masker), _LONGEST_NAME)


def _run_name(raw: object, masker: Masker | None) -> str:
    try:
        payload = parse(raw)
    except PayloadError as error:
        return f"refused payload: {error.faults[0].path}"
    container = payload.task.container
    if container.image is None or container.command is None:
        return "no container task"
    remote = payload.remote
    # Without the registry and the digest, which fill the line and tell little.
    image = "/".join(container.image.partition("@")[0].split("/")[-2:])
    parts = [*([_repository(remote)] if remote else []), image]
    if masker is not None or not payload.names_secrets:
        known = masker or Masker(remote.secrets if remote else ())
        parts.append(command_summary(known.words(container.command), 60))
    return " · ".join(parts)


def _repository(remote: Remote) -> str:
    path = remote.display.rstrip("/").removesuffix(".git")
    return "/".join(path.replace(":", "/").split("/")[-2:])


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
    last = last_line(log.tail, 200) if log and not succeeded else ""
    whole = f"{message}. Its last line: {last}" if last else message
    return one_line(whole, _MAX_MESSAGE)


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
