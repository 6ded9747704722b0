"""A process that dies while it uploads, on a real server."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types import SecretDict

from blocks.storage import ArtifactStorage
from scripts.stack import Stack
from tests.gate import Gate
from tests.runs import shell, until
from tests.s3 import BUCKET, Endpoint
from tests.weather import Weather

DONE = "COMPLETED"

pytestmark = [pytest.mark.docker, pytest.mark.server, pytest.mark.thorough]


@contextmanager
def in_force(stack: Stack, storage: ArtifactStorage) -> Iterator[None]:
    """The stack's server has the block for as long as this lasts."""
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{stack.port}/api"}):
        storage.save("default", overwrite=True)
        try:
            yield
        finally:
            slug = f"{ArtifactStorage.get_block_type_slug()}/default"
            stack.prefect("block", "delete", slug)


def test_a_process_that_is_killed_in_mid_upload_is_replaced_and_the_upload_completed(
    processes: Weather, s3: Endpoint
) -> None:
    with Gate(s3.port) as gate:
        options = SecretDict(s3.options(gate.http))
        storage = ArtifactStorage(url=f"s3://{BUCKET}/storm", options=options, parallel_uploads=1)
        with in_force(processes.stack, storage):
            script = "for n in 1 2 3 4 5 6; do echo $n > $ARTIFACT_DIR/$n; done"
            with gate.holding(b"/container/4 ", times=math.inf) as held:
                run_id = processes.submit(shell(script))
                assert held.wait(120)
                processes.kill_flow(run_id)
                before = list(gate.puts)
            # Its attempt was told as finished before, so that tells nothing of the run's end.
            until(lambda: processes.stack.flow_run(run_id)["state_type"] == DONE, what="the end")
            assert processes.stack.flow_run(run_id)["state"]["message"] == "exited 0"
            keys = set(s3.keys(f"storm/{run_id}/1/"))
        assert keys >= {*(f"container/{n}" for n in range(1, 7)), "manifest.json"}
        changed = {"run.json", "execute.log", "4"}
        again = set(before) & set(gate.puts[len(before) :])
        assert {key.rpartition("/")[2] for key in again} <= changed
    processes.assert_told_once(run_id)
