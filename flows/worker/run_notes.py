"""What a worker writes on flow runs: who carries them, what they wait for, why they end."""

import contextlib

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Failed

from flows.outcome import FailureClass, Outcome, OutcomeName
from flows.report import page
from flows.report.names import REPORT_KEY
from flows.report.sentences import state_message, state_name
from flows.worker.takeover import HOST_LABEL, WORKER_LABEL


async def note_taken(
    client: PrefectClient, flow_run: FlowRun, worker: str, host: str, *, was_told: bool
) -> None:
    """Label the run with who carries it and on which host; it waits no longer."""
    await client.update_flow_run_labels(flow_run.id, {WORKER_LABEL: worker, HOST_LABEL: host})
    others = _other_tags(flow_run)
    if was_told or others != flow_run.tags:
        await client.update_flow_run(flow_run.id, tags=others)


async def tell_waiting(client: PrefectClient, flow_run: FlowRun, sentence: str) -> None:
    """Tag the run with what it waits for.

    Another worker may be about to claim the run: a state would undo that.
    """
    with contextlib.suppress(ObjectNotFound):
        await client.update_flow_run(flow_run.id, tags=[*_other_tags(flow_run), sentence])


async def reject(client: PrefectClient, flow_run: FlowRun, sentence: str) -> None:
    """End a run that can never start, with its report."""
    outcome = Outcome(OutcomeName.REJECTED, FailureClass.LIMITS, sentence)
    await client.create_artifact(
        ArtifactCreate(
            key=REPORT_KEY,
            type="markdown",
            data=page.rejection_markdown(outcome),
            flow_run_id=flow_run.id,
        )
    )
    state: State[None] = Failed(name=state_name(outcome), message=state_message(outcome))
    await client.set_flow_run_state(flow_run.id, state)


def _other_tags(flow_run: FlowRun) -> list[str]:
    """The run's tags without what a worker, this one or an earlier, said of its waiting."""
    return [tag for tag in flow_run.tags if not tag.startswith("waiting for ")]
