"""The events of this package. Published strings: users' automations match on them.

Each has an id made of the job, the attempt and its name, so an event that two hooks or two
processes emit is stored once. Automations cannot look into payloads: what they match on is among
the resource's labels as well.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from prefect.client.orchestration import PrefectClient
from prefect.events import emit_event
from prefect.events.schemas.events import Event

from flows.attempt import Attempt, Executed
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


class _Told(NamedTuple):
    event: str
    job_id: str
    payload: dict[str, Any]


def emit_started(attempt: Attempt) -> None:
    """Tell that the execute stage of an attempt started."""
    _emit(_started(attempt))


def emit_finished(attempt: Attempt) -> None:
    """Tell how an attempt ended; nothing is told of one that has not."""
    if attempt.executed is not None:
        _emit(_finished(attempt, attempt.executed))


async def send_events(client: PrefectClient, attempt: Attempt) -> None:
    """Tell both, by a request that returns once the server has them."""
    events = [_started(attempt)]
    if attempt.executed is not None:
        events.append(_finished(attempt, attempt.executed))
    stored = [Event(**_words(each)).model_dump(mode="json") for each in events]
    await client.request("POST", "/events", json=stored)


def _started(attempt: Attempt) -> _Told:
    spec = attempt.prepared.shown
    more = {"pullMode": spec.pull, "timeoutSeconds": spec.timeout_seconds}
    return _Told(STARTED, spec.job_id, {**_what(spec), **more})


def _finished(attempt: Attempt, executed: Executed) -> _Told:
    spec, outcome = attempt.prepared.shown, executed.outcome
    return _Told(
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
    _emit(_Told(FINISHED, job_id, {key: started.get(key) for key in _WHAT} | lost))


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


def _emit(told: _Told) -> None:
    emit_event(**_words(told))


def _words(told: _Told) -> dict[str, Any]:
    payload = told.payload
    labels = {OUTCOME_LABEL: payload.get("outcome"), CLASS_LABEL: payload.get("failureClass")}
    return {
        "event": told.event,
        "resource": {
            "prefect.resource.id": f"moonmind.task.{told.job_id}",
            "prefect.resource.name": payload["containerName"],
            **{label: value for label, value in labels.items() if value},
        },
        "related": [_flow_run(told.job_id)],
        "payload": payload,
        "id": event_id(told.job_id, payload["attempt"], told.event),
    }


def _flow_run(flow_run_id: str) -> dict[str, str]:
    return {
        "prefect.resource.id": f"prefect.flow-run.{flow_run_id}",
        "prefect.resource.role": "flow-run",
    }
