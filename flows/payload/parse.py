"""`parse`, the only door for a payload: JSON in, a frozen `TaskPayload` or every fault out."""

from difflib import get_close_matches
from itertools import islice
from typing import Any

from pydantic import Field, ValidationError

from flows.errors import Fault, PayloadError
from flows.payload import fields
from flows.payload.container import Container
from flows.payload.models import TaskPayload
from flows.payload.refused_keys import told_of_git
from flows.payload.validation import accepted, by_alias, faults_of, json_faults, keys_in

# The default of the flow's parameter, which Prefect reads as its schema: required, and in the form
# enabled already. A run without a payload gets pydantic's word for undefined.
PAYLOAD: Any = Field(
    json_schema_extra={"title": "Payload", "default": {"task": {"container": {"enabled": True}}}}
)
# Of the keys that nobody knows: somebody misspelt a few.
_LOOKED_AT = 100
_NOT_ENABLED = (
    "is not true: this runner runs container tasks only; set it to true and give an image and a "
    "command, or send the task to another queue"
)


def parse(raw: object) -> TaskPayload:
    """Normalise a payload, or raise `PayloadError` with every fault, whatever `raw` is."""
    if isinstance(raw, TaskPayload):
        return raw
    if faults := json_faults(raw):
        raise PayloadError(faults)
    missing = _missing(raw)
    try:
        payload = TaskPayload.model_validate(raw)
    except ValidationError as error:
        raise PayloadError(faults_of(error, TaskPayload) + missing) from None
    if missing:
        raise PayloadError(missing)
    return payload


def runnable(raw: object) -> TaskPayload:
    """The payload, if this runner would run it; `PayloadError` also for what is not done here."""
    try:
        payload = parse(raw)
    except PayloadError as error:
        raise PayloadError([*error.faults, *_not_enabled(raw, error)]) from None
    require_runnable(payload)
    return payload


def misplaced(payload: TaskPayload) -> list[str]:
    """A sentence for each key that has no effect where it stands, and that somebody expects to
    have one."""
    places = {key: "task.container" for key in by_alias(Container)}
    for key, field in by_alias(Container).items():
        places |= {inner: f"task.container.{key}" for inner in keys_in(field) - places.keys()}
    outside = {"": payload.model_extra or {}, "task.": payload.task.model_extra or {}}
    found = [(where, key) for where, extra in outside.items() for key in extra if key in places]
    elsewhere = [
        f"{where}{key} has no effect there; did you mean {places[key]}.{key}?"
        for where, key in found
    ]
    of_git = {
        key: told_of_git(key) for key in islice(payload.task.git.model_extra or {}, _LOOKED_AT)
    }
    return [*elsewhere, *(f"task.git.{key} {text}" for key, text in of_git.items() if text)]


def parsed_if_valid(raw: object) -> object:
    """The payload where it is acceptable, so that nobody parses it again; `raw` where it is not."""
    try:
        return parse(raw)
    except PayloadError:
        return raw


def secrets_of(raw: object) -> tuple[str, ...]:
    """The values in a payload that no log may show; none where it is not acceptable."""
    payload = parsed_if_valid(raw)
    remote = payload.remote if isinstance(payload, TaskPayload) else None
    return remote.secrets if remote else ()


def require_runnable(payload: TaskPayload) -> None:
    """Raise `PayloadError` where a valid payload asks for what this runner does not do."""
    faults = []
    if not payload.task.container.enabled:
        message = f"{_NOT_ENABLED}{_misspelt_container(payload)}"
        faults.append(Fault("task.container.enabled", message))
    if (mode := payload.task.publish.mode) != "none":
        message = (
            f"is {mode!r}, which this runner cannot do yet: use 'none' and take the files from "
            "the run's artifacts"
        )
        faults.append(Fault("task.publish.mode", message))
    if faults:
        raise PayloadError(faults)


def _misspelt_container(payload: TaskPayload) -> str:
    outside = {"": payload.model_extra or {}, "task.": payload.task.model_extra or {}}
    for where, extra in outside.items():
        for key in get_close_matches("container", [*islice(extra, _LOOKED_AT)], n=1, cutoff=0.8):
            return f". {where}{key} has no effect; did you mean task.container?"
    return ""


def _not_enabled(raw: object, error: PayloadError) -> list[Fault]:
    """That a container with other faults is not enabled either, so that all is told at once."""
    container = _container(raw)
    told = any(fault.path == "task.container.enabled" for fault in error.faults)
    if container is None or told or fields.is_true(container.get("enabled")):
        return []
    return [Fault("task.container.enabled", _NOT_ENABLED)]


def _container(raw: object) -> dict[str, Any] | None:
    task = raw.get("task") if isinstance(raw, dict) else None
    container = task.get("container") if isinstance(task, dict) else None
    return container if isinstance(container, dict) else None


def _missing(raw: object) -> list[Fault]:
    """What an enabled container lacks, found beside pydantic's faults so that all come at once."""
    container = _container(raw)
    if container is None or not fields.is_true(container.get("enabled")):
        return []
    return [
        Fault(f"task.container.{key}", f"is missing; it takes {accepted(field)}")
        for key, field in Container.model_fields.items()
        if key in {"image", "command"} and container.get(key) is None
    ]
