"""Flow runs in Prefect's API: found by id, name or address, with their outcome and artifacts."""

import json
import re
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prefect.exceptions import ObjectNotFound

from flows.cli.console import CommandError, ExitStatus
from flows.outcome import OutcomeName
from flows.report.names import FLOW_NAME, METADATA_KEY
from flows.report.sentences import outcome_of_state

_PAGE = 200
# Of the newest runs; the API cannot look for the beginning of an id.
_PAGES = 10
_NEWEST_FIRST = FlowRunSort.EXPECTED_START_TIME_DESC
_SHOWN = 5
_BEGINNING = re.compile(r"[0-9a-f][0-9a-f-]{3,35}")


def find_run(client: SyncPrefectClient, name: str) -> FlowRun:
    """The one run with this id, beginning of an id, name or address in the UI.

    Raises `CommandError` where there is none, or several.
    """
    text = name.strip().rstrip("/").rpartition("/")[2] if "://" in name else name.strip()
    if run_id := _uuid(text):
        found = _by_id(client, run_id)
    else:
        found = _by_name(client, text)
        if not found and _BEGINNING.fullmatch(text.lower()):
            found = _by_beginning(client, text.lower())
    if not found:
        raise CommandError(
            f"there is no run {name!r} on this server: give its id, the beginning of its id, or "
            "its whole name, as prefect flow-run ls shows them",
            ExitStatus.UNKNOWN,
        )
    if len(found) > 1:
        ids = ", ".join(str(run.id) for run in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise CommandError(
            f"{name!r} means {len(found)} runs, {ids}{more}: give the id of one", ExitStatus.UNKNOWN
        )
    return found[0]


def outcome_name(run: FlowRun) -> OutcomeName | None:
    """The outcome of a run that is over; None of one that is not.

    By its final state alone: files in its folder are the task's to write.
    """
    state = run.state
    if state is None or not state.is_final():
        return None
    return outcome_of_state(state.type, state.name or "")


def summary(run: FlowRun) -> str:
    """The run's state and its sentence, on one line."""
    state = run.state
    if state is None:
        return "has no state yet"
    shown = str(outcome_name(run) or state.name or state.type)
    waiting = [tag for tag in run.tags if tag.startswith("waiting for ")]
    sentence = state.message or "; ".join(waiting)
    return f"{shown}: {sentence}" if sentence else shown


def metadata_of(client: SyncPrefectClient, run: FlowRun) -> dict[str, str]:
    """`run.json` of the newest attempt, without its lists; empty where there is none."""
    table = newest_artifact(client, run, METADATA_KEY)
    rows = json.loads(table) if table else []
    return {str(row["key"]): str(row["value"]) for row in rows}


def newest_artifact(client: SyncPrefectClient, run: FlowRun, key: str) -> str | None:
    """The data of the run's newest artifact of this key."""
    wanted = {"flow_run_id": {"any_": [run.id]}, "key": {"any_": [key]}}
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter.model_validate(wanted),
        sort=ArtifactSort.CREATED_DESC,
        limit=1,
    )
    return str(found[0].data) if found else None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _by_id(client: SyncPrefectClient, run_id: UUID) -> list[FlowRun]:
    try:
        return [client.read_flow_run(run_id)]
    except ObjectNotFound:
        return []


def _by_name(client: SyncPrefectClient, name: str) -> list[FlowRun]:
    wanted = FlowRunFilter.model_validate({"name": {"any_": [name]}})
    return client.read_flow_runs(flow_run_filter=wanted, sort=_NEWEST_FIRST, limit=_PAGE)


def _by_beginning(client: SyncPrefectClient, beginning: str) -> list[FlowRun]:
    flow = FlowFilter.model_validate({"name": {"any_": [FLOW_NAME]}})
    found: dict[UUID, FlowRun] = {}
    for offset in range(0, _PAGES * _PAGE, _PAGE):
        runs = client.read_flow_runs(
            flow_filter=flow, sort=_NEWEST_FIRST, limit=_PAGE, offset=offset
        )
        found |= {run.id: run for run in runs if str(run.id).startswith(beginning)}
        if len(runs) < _PAGE:
            break
    return list(found.values())
