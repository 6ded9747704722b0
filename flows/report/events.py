"""The events of this package. Published strings: users' automations match on them.

Each has an id made of the job, the attempt and its name, so an event that two hooks or two
processes emit is stored once. Automations cannot look into payloads: what they match on is among
the resource's labels as well.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid5

from prefect.events import emit_event

from flows.attempt import Attempt
from flows.outcome import FailureClass, OutcomeName
from flows.spec import ContainerSpec, command_summary

STARTED = "moonmind.task.container.started"


FINISHED = "moonmind.task.container.finished"


SUMMARY = "moonmind.task.summary"


OUTCOME_LABEL = "moonmind.outcome"


CLASS_LABEL = "moonmind.failure_class"


# In the payloads of both events of an attempt.
_WHAT = ("containerName", "image", "command", "artifactsSubdir", "attempt")


_NAMESPACE = UUID("6f0c5a0e-3b57-4f0f-9a55-0a5f2f3d7c11")


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
