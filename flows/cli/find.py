"""Which run is meant: by its id, the beginning of its id, its name, or its address in the UI."""

import re
from collections.abc import Sequence
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterName,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from flows.cli.console import CommandError
from flows.cli.exit_status import ExitStatus
from flows.report.names import FLOW_NAME

_PAGE = 200
# Of the newest runs; the API cannot look for the beginning of an id.
_PAGES = 10
_SHOWN = 5
_BEGINNING = re.compile(r"[0-9a-f][0-9a-f-]{3,35}")


def find_run(client: SyncPrefectClient, name: str) -> FlowRun:
    """The one run that is meant. Raises `CommandError` where there is none, or several."""
    text = name.strip().rstrip("/").rpartition("/")[2] if "://" in name else name.strip()
    run_id = _id(text)
    if run_id is not None:
        try:
            return client.read_flow_run(run_id)
        except ObjectNotFound:
            raise _unknown(name) from None
    found = _named(client, text)
    if not found and _BEGINNING.fullmatch(text.lower()):
        found = _beginning_with(client, text.lower())
    return _only(found, name)


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _named(client: SyncPrefectClient, name: str) -> list[FlowRun]:
    wanted = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
    return client.read_flow_runs(
        flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=_PAGE
    )


def _beginning_with(client: SyncPrefectClient, beginning: str) -> list[FlowRun]:
    flow = FlowFilter(name=FlowFilterName(any_=[FLOW_NAME]))
    found: dict[UUID, FlowRun] = {}
    for page in range(_PAGES):
        runs = client.read_flow_runs(
            flow_filter=flow,
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=_PAGE,
            offset=page * _PAGE,
        )
        found |= {run.id: run for run in runs if str(run.id).startswith(beginning)}
        if len(runs) < _PAGE:
            break
    return list(found.values())


def _only(found: Sequence[FlowRun], name: str) -> FlowRun:
    if not found:
        raise _unknown(name)
    if len(found) > 1:
        ids = ", ".join(str(run.id) for run in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise CommandError(
            f"{name!r} means {len(found)} runs, {ids}{more}: give the id of one", ExitStatus.UNKNOWN
        )
    return found[0]


def _unknown(name: str) -> CommandError:
    return CommandError(
        f"there is no run {name!r} on this server: give its id, the beginning of its id, or its "
        "whole name, as prefect flow-run ls shows them",
        ExitStatus.UNKNOWN,
    )
