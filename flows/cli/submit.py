"""`container-task submit`: a payload checked here, a flow run created, and watched if asked."""

import signal
from dataclasses import dataclass

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from flows.cli.check import read_json, require_runnable
from flows.cli.console import CommandError, Console, ExitStatus
from flows.cli.follow import watch
from flows.cli.prefect_api import connected, run_url
from flows.report.names import run_name


@dataclass(frozen=True, slots=True)
class Submission:
    """What is submitted, to which deployment, and whether it is watched."""

    payload: str
    deployment: str
    idempotency_key: str | None = None
    tags: tuple[str, ...] = ()
    watch: bool = False
    cancel_on_interrupt: bool = False


def submit_payload(console: Console, asked: Submission) -> int:
    """Start the run, tell of it, and watch it if asked."""
    raw = read_json(asked.payload)
    require_runnable(console, raw)
    if asked.watch and asked.cancel_on_interrupt:
        # Even where SIGINT is ignored, as a shell's background jobs inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with connected() as client:
        run = _create_run(client, asked, raw)
        facts = {"id": str(run.id), "name": run.name, "url": run_url(run.id)}
        if asked.watch:
            console.record("submitted", **facts)
            if not console.as_json:
                console.say(f"Run {run.id}, {run.name}\n{run_url(run.id)}")
            return watch(client, console, run, cancel_on_interrupt=asked.cancel_on_interrupt)
    if console.as_json:
        console.document(facts)
    console.line(f"Run      {run.id}\nName     {run.name}\nAddress  {run_url(run.id)}")
    return ExitStatus.SUCCEEDED


def _create_run(client: SyncPrefectClient, asked: Submission, raw: object) -> FlowRun:
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
