"""What Prefect shows of a run in a few words, and tells of it in events. Pure but for the sending.

The names, sentences, keys and events are published: users' automations match on them. Each event
has an id made of the job, the attempt and its name, so one that two hooks or two processes emit is
stored once. Automations cannot look into payloads: what they match on is among the labels, too.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid5

from prefect.events import emit_event

from flows.attempt import Attempt, Upload
from flows.errors import PayloadError
from flows.masking import Masker
from flows.outcome import FAILURE_OF, OUTCOMES, FailureClass, Outcome, OutcomeName
from flows.outputs.verdict import failed_tests, passed_tests
from flows.payload.models import Remote
from flows.payload.parse import parse
from flows.spec import ContainerSpec, command_summary
from flows.text import last_line
from flows.workspace.logs import LogFacts

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
_OF_NAME = {kind.state_name: outcome for outcome, kind in OUTCOMES.items() if kind.state_name}
_OF_TYPE = {"CRASHED": OutcomeName.INFRASTRUCTURE} | {
    kind.state_type: outcome for outcome, kind in OUTCOMES.items() if kind.state_type != "FAILED"
}
STARTED = "moonmind.task.container.started"
FINISHED = "moonmind.task.container.finished"
SUMMARY = "moonmind.task.summary"
OUTCOME_LABEL = "moonmind.outcome"
CLASS_LABEL = "moonmind.failure_class"
# In the payloads of both events of an attempt.
_WHAT = ("containerName", "image", "command", "artifactsSubdir", "attempt")
_NAMESPACE = UUID("6f0c5a0e-3b57-4f0f-9a55-0a5f2f3d7c11")


def run_name(raw: object, masker: Masker | None = None) -> str:
    """A name of one line for the run of `raw`; a payload that is refused still gets one.

    `masker` knows every secret of the run. Before anybody has read them, a payload that names some
    gets a name without its command.
    """
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
    if masker is not None or not payload.secret_blocks:
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


def emit_started(attempt: Attempt) -> None:
    """Tell that the execute stage of an attempt started."""
    spec = attempt.prepared.shown
    _emit(
        STARTED,
        spec.job_id,
        {**_what(spec), "pullMode": spec.pull, "timeoutSeconds": spec.timeout_seconds},
    )


def emit_finished(attempt: Attempt) -> None:
    """Tell how an attempt ended; nothing is told of one that has not."""
    spec, executed = attempt.prepared.shown, attempt.executed
    if executed is None:
        return
    outcome = executed.outcome
    _emit(
        FINISHED,
        spec.job_id,
        {
            **_what(spec),
            "outcome": str(outcome.name),
            "failureClass": str(outcome.failure_class) if outcome.failure_class else None,
            "exitCode": outcome.exit_code,
            "timedOut": outcome.timed_out,
            "durationSeconds": executed.duration_seconds,
        },
    )


def emit_finished_of(job_id: str, started: Mapping[str, Any], seconds: float) -> None:
    """Tell the end of an attempt of which nothing is known but its `started` event's payload."""
    lost = {
        "outcome": str(OutcomeName.INFRASTRUCTURE),
        "failureClass": str(FailureClass.WORKER),
        "exitCode": None,
        "timedOut": False,
        "durationSeconds": seconds,
    }
    _emit(FINISHED, job_id, {key: started.get(key) for key in _WHAT} | lost)


def emit_summary(flow_run_id: str, payload: dict[str, Any]) -> None:
    """Tell how a week went: once for the flow run that looked back at it."""
    emit_event(
        SUMMARY,
        resource={"prefect.resource.id": f"moonmind.summary.{flow_run_id}"},
        related=[_flow_run(flow_run_id)],
        payload=payload,
        id=uuid5(_NAMESPACE, f"{flow_run_id}/{SUMMARY}"),
    )


def event_id(job_id: str, attempt: int, event: str) -> UUID:
    """The one id of an attempt's event."""
    return uuid5(_NAMESPACE, f"{job_id}/{attempt}/{event}")


def _what(spec: ContainerSpec) -> dict[str, Any]:
    command = command_summary(spec.command)
    values = (spec.name, spec.image, command, spec.artifacts_subdir, spec.attempt)
    return dict(zip(_WHAT, values, strict=True))


def _emit(event: str, job_id: str, payload: dict[str, Any]) -> None:
    labels = {OUTCOME_LABEL: payload.get("outcome"), CLASS_LABEL: payload.get("failureClass")}
    emit_event(
        event,
        resource={
            "prefect.resource.id": f"moonmind.task.{job_id}",
            "prefect.resource.name": payload["containerName"],
            **{label: value for label, value in labels.items() if value},
        },
        related=[_flow_run(job_id)],
        payload=payload,
        id=event_id(job_id, payload["attempt"], event),
    )


def _flow_run(flow_run_id: str) -> dict[str, str]:
    return {
        "prefect.resource.id": f"prefect.flow-run.{flow_run_id}",
        "prefect.resource.role": "flow-run",
    }
