"""`container-task submit`: a payload judged here and started there, and watched if asked."""

import signal
from dataclasses import dataclass
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from flows.cli.check import judged, read_json
from flows.cli.console import CommandError, Output
from flows.cli.exit_status import ExitStatus
from flows.cli.follow import follow
from flows.cli.outcomes import exit_status, outcome_name, summary
from flows.cli.prefect_api import api_url, connected, run_url, unreachable
from flows.report.names import run_name


@dataclass(frozen=True, slots=True)
class Submission:
    """What is submitted, and to which deployment."""

    payload: str
    deployment: str
    idempotency_key: str | None = None
    tags: tuple[str, ...] = ()


def submitted(
    output: Output, asked: Submission, *, watch: bool = False, cancel_on_interrupt: bool = False
) -> int:
    """Start the run, tell of it, and watch it if asked."""
    raw = read_json(asked.payload)
    judged(output, raw)
    if cancel_on_interrupt:
        # Even where SIGINT is ignored, as a shell's background jobs inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with connected() as client:
        run = _start(client, asked, raw)
        if not watch:
            _tell(output, run)
            return ExitStatus.SUCCEEDED
        _announce(output, run)
        return watched(client, output, run, cancel_on_interrupt=cancel_on_interrupt)


def watched(
    client: SyncPrefectClient, output: Output, run: FlowRun, *, cancel_on_interrupt: bool = False
) -> int:
    """Show the run's log until it is over, and how it ended; the exit status is the outcome's."""
    try:
        ended = _followed(client, output, run, cancel_on_interrupt=cancel_on_interrupt)
    except httpx.HTTPError as error:
        reason = unreachable(str(api_url()), error)
        raise CommandError(f"{reason}. {_goes_on(run.id)}", ExitStatus.UNREACHABLE) from error
    outcome = outcome_name(ended)
    message = ended.state.message if ended.state else None
    output.record("ended", outcome=outcome, message=message, url=run_url(run.id))
    if not output.as_json:
        output.say(summary(ended))
    return exit_status(outcome)


def _followed(
    client: SyncPrefectClient, output: Output, run: FlowRun, *, cancel_on_interrupt: bool
) -> FlowRun:
    try:
        return follow(client, run, output)
    except KeyboardInterrupt:
        if not cancel_on_interrupt:
            raise CommandError(_goes_on(run.id), ExitStatus.INTERRUPTED) from None
    output.say("Cancelling the run; interrupt once more to leave it at that.")
    client.set_flow_run_state(run.id, Cancelling(message="Cancelled by container-task submit."))
    return follow(client, run, output)


def _start(client: SyncPrefectClient, asked: Submission, raw: object) -> FlowRun:
    unknown = CommandError(
        f"there is no deployment {asked.deployment!r} on this server: register it with prefect "
        "deploy --all, or name another one with --deployment",
        ExitStatus.UNKNOWN,
    )
    if asked.deployment.count("/") != 1:
        raise unknown
    try:
        deployment = client.read_deployment_by_name(asked.deployment)
    except ObjectNotFound:
        raise unknown from None
    return client.create_flow_run_from_deployment(
        deployment.id,
        parameters={"payload": raw},
        name=run_name(raw),
        tags=[*deployment.tags, *asked.tags],
        idempotency_key=asked.idempotency_key,
    )


def _tell(output: Output, run: FlowRun) -> None:
    if output.as_json:
        output.document({"id": str(run.id), "name": run.name, "url": run_url(run.id)})
    output.line(f"Run      {run.id}")
    output.line(f"Name     {run.name}")
    output.line(f"Address  {run_url(run.id)}")


def _announce(output: Output, run: FlowRun) -> None:
    output.record("submitted", id=str(run.id), name=run.name, url=run_url(run.id))
    if not output.as_json:
        output.say(f"Run {run.id}, {run.name}\n{run_url(run.id)}")


def _goes_on(run_id: UUID) -> str:
    return (
        f"The run goes on. Watch it again with container-task logs -f {run_id}, end it with "
        f"prefect flow-run cancel {run_id}."
    )
