"""The flow `container-task`: prepare, execute, publish, and the state that the outcome decides.

Glue that Prefect can show. What a task means is decided in `flows.spec`, how it runs in
`flows.execution`; nothing here knows Docker.
"""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from blocks.policy import ContainerPolicy
from flows import execution, report
from flows.checkout import checkout
from flows.engine import DockerEngine
from flows.errors import ContainerTaskError
from flows.execution import Outcome, OutcomeName, outcome_of
from flows.host import HostSettings
from flows.logs import Journal, LogFacts, RunnerLog
from flows.naming import run_name
from flows.payload import TaskPayload, parse, require_runnable
from flows.repository import Remote
from flows.spec import Run, command_summary, compile_spec
from flows.stages import Executed, Prepared
from flows.workspace import Workspace

T = TypeVar("T")

REPORT_KEY = "container-run"
METADATA_KEY = "container-run-metadata"


@flow(
    name="container-task",
    flow_run_name=lambda: run_name(runtime.flow_run.parameters.get("payload")),
    # The flow judges its payload itself: a bad one ends `Rejected`, every fault in a sentence.
    validate_parameters=False,
    persist_result=False,
)
async def container_task(payload: TaskPayload) -> State[Any]:
    """Run one container for one queue task.

    Args:
        payload: The task, as JSON: which image and command to run, and in what surroundings.
    """
    prepared = await _result(prepare(payload))
    if isinstance(prepared, Outcome):
        return _final_state(prepared)
    executed = await _result(execute(prepared))
    # Prefect's types know no `return_state` of an async task.
    published: State[None] = await publish(prepared, executed, return_state=True)  # type: ignore[misc]
    if not published.is_completed():
        # The outcome stands, whatever became of its publication.
        get_run_logger().warning("The results could not be published: %s", published.message)
    return _final_state(executed.outcome, executed.log)


@task(name="prepare", task_run_name="prepare", cache_policy=NO_CACHE, persist_result=False)
async def prepare(payload: object) -> Prepared | Outcome:
    """Judge the payload, decide what will run, make the job's folder and checkout.

    Returns the outcome instead where the run ends here.
    """
    try:
        return await _prepare(payload)
    except ContainerTaskError as error:
        outcome = outcome_of(error)
        await acreate_markdown_artifact(report.rejection_markdown(outcome), key=REPORT_KEY)
        return _named(outcome, outcome)


@task(name="execute", task_run_name="execute", cache_policy=NO_CACHE, persist_result=False)
async def execute(prepared: Prepared) -> Executed:
    """Run the container to its end, and leave nothing of it on the engine."""
    workspace, spec, started_at = prepared.workspace, prepared.spec, datetime.now(UTC)
    logger = get_run_logger()
    with (
        Journal(workspace.execute_log, workspace.folder, logger) as journal,
        RunnerLog(
            workspace.runner_log(spec.artifacts_subdir), workspace.folder, logger.info
        ) as runner_log,
    ):
        journal.say(f"Running {command_summary(spec.command)} in {spec.image} as {spec.name}")
        async with DockerEngine() as engine:
            outcome = await execution.run(engine, spec, runner_log)
        log = runner_log.facts()
        journal.say(f"Ended {outcome.name}: {report.state_message(outcome)}")
    return _named(Executed(outcome, log, started_at, datetime.now(UTC)), outcome)


@task(name="publish", task_run_name="publish", cache_policy=NO_CACHE, persist_result=False)
async def publish(prepared: Prepared, executed: Executed) -> None:
    """Write `run.json` and the artifacts that the Prefect UI shows."""
    workspace, spec = prepared.workspace, prepared.spec
    entries = await asyncio.to_thread(workspace.listing)
    facts = report.build(prepared, executed, entries)
    run_json = workspace.write_run_json(spec.artifacts_subdir, facts.as_json())
    with Journal(workspace.execute_log, workspace.folder, get_run_logger()) as journal:
        journal.say(f"Published {run_json} and {len(facts.artifacts)} files")
    await acreate_markdown_artifact(
        report.markdown(facts, executed.log), key=REPORT_KEY, description=f"How {spec.name} went"
    )
    await acreate_table_artifact(
        report.metadata_table(facts), key=METADATA_KEY, description=str(run_json)
    )


async def _prepare(raw: object) -> Prepared:
    payload = parse(raw)
    require_runnable(payload)
    host, policy = HostSettings(), await ContainerPolicy.in_force()
    host.require_capabilities(payload)
    run = Run(
        job_id=str(runtime.flow_run.id),
        attempt=max(1, runtime.flow_run.run_count),
        worker=host.worker,
        now=datetime.now(UTC),
    )
    workspace = Workspace(host.workdir, run.job_id, host.workspace_volume)
    spec = compile_spec(
        payload, policy, workspace.mount, run, default_timeout_seconds=host.timeout_seconds
    )
    remote = Remote.parse(payload.repository) if payload.repository else None
    await asyncio.to_thread(workspace.create, spec.artifacts_subdir)
    try:
        with Journal(workspace.execute_log, workspace.folder, get_run_logger()) as journal:
            journal.say(f"Prepared {workspace.folder}")
            commit = None
            if remote:
                commit = await checkout(remote, payload.task.git.starting_branch, workspace.repo)
                journal.say(f"Checked out {remote.display} at {commit}")
        workspace.require_workdir(spec)
    except BaseException:
        await asyncio.to_thread(workspace.remove)
        raise
    display = remote.display if remote else None
    return Prepared(workspace, spec, display, commit, payload.task.instructions)


def _final_state(outcome: Outcome, log: LogFacts | None = None) -> State[Any]:
    """The flow run's state, as the outcome decides it."""
    message = report.state_message(outcome, log)
    if outcome.name is OutcomeName.SUCCEEDED:
        return Completed(message=message)
    return Failed(name=report.state_name(outcome), message=message)


def _named(value: T, outcome: Outcome) -> T:
    """`value` as a stage's result, under a state that tells the outcome at a glance.

    The stage itself did its work, so the state is Completed whatever the container did.
    """
    if outcome.name is OutcomeName.SUCCEEDED:
        return value
    return cast(
        T,
        Completed(
            name=report.stage_name(outcome), message=report.state_message(outcome), data=value
        ),
    )


async def _result(stage: Coroutine[Any, Any, T]) -> T:
    """What a stage returned, taken out of the state that `_named` put it into."""
    returned = await stage
    return cast(T, await returned.aresult()) if isinstance(returned, State) else returned
