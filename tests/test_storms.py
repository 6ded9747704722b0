"""Bad weather for a container, whose run goes on in this process, on a real server and engine.

After each storm: the right outcome, one `started` and one `finished` for each attempt, `run.json`,
and nothing left on the engine.
"""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL

from tests.gateway import Gateway
from tests.hosts import disk
from tests.own_engine import OwnEngine
from tests.runs import EAT_MEMORY, Finished, Runner, left_on_engine, payload, shell
from tests.weather import FINISHED, STARTED

pytestmark = [pytest.mark.docker, pytest.mark.server, pytest.mark.thorough]

COUNT = "for i in $(seq 1 60); do echo line $i; sleep 0.2; done"


async def assert_told_once(run: Finished, attempts: int = 1) -> None:
    """One `started` and one `finished` for each attempt."""
    query = {"filter": {"resource": {"id": [f"moonmind.task.{run.job_id}"]}}, "limit": 50}
    expected = {(event, n): 1 for event in (STARTED, FINISHED) for n in range(1, attempts + 1)}
    told: Counter[tuple[str, int]] = Counter()
    async with httpx.AsyncClient(base_url=PREFECT_API_URL.value(), timeout=60) as client:
        for _ in range(600):
            answer = await client.post("/events/filter", json=query)
            answer.raise_for_status()
            events = answer.json()["events"]
            told = Counter((event["event"], event["payload"]["attempt"]) for event in events)
            if told == expected:
                return
            await asyncio.sleep(0.1)
    assert told == expected


@pytest.mark.parametrize(
    ("task", "state", "facts"),
    [
        pytest.param(
            shell("kill -SEGV $$"),
            "Failed",
            {"outcome": "failed", "exitCode": 139, "signal": 11, "stoppedBy": "container"},
            id="a signal",
        ),
        pytest.param(
            shell(f"{EAT_MEMORY}; exit 9", resources={"memory": "16m"}),
            "OutOfMemory",
            {"outcome": "out-of-memory", "oomKilled": True},
            id="a lack of memory",
        ),
        pytest.param(
            shell(
                "trap '' TERM; while true; do sleep 0.1; done",
                timeoutSeconds=3,
                stopGraceSeconds=1,
            ),
            "TimedOut",
            {"outcome": "timed-out", "exitCode": 137, "stoppedBy": "deadline", "timedOut": True},
            id="SIGTERM ignored",
        ),
        pytest.param(
            payload("true"),
            "Completed",
            {"outcome": "succeeded", "exitCode": 0},
            id="ten milliseconds",
        ),
        pytest.param(
            shell("exec >&- 2>&-; sleep 1; exit 4"),
            "Failed",
            {"outcome": "failed", "exitCode": 4},
            id="a closed stdout",
        ),
    ],
)
async def test_a_storm_ends_with_the_truth_told_once(
    runner: Runner, task: Any, state: str, facts: dict[str, Any]
) -> None:
    run = await runner(task)
    assert run.state.name == state, run.message
    assert run.run_json.items() >= facts.items()
    assert run.run_json["logs"]["complete"] is True
    await assert_told_once(run)


async def test_a_proxy_that_cuts_every_connection_after_five_seconds_goes_unnoticed(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gateway(life_seconds=5) as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.url)
        run = await runner(shell(COUNT))
    assert run.state.name == "Completed", run.message
    assert run.run_json["logs"]["complete"] is True
    assert run.run_json["logs"]["reconnects"] > 0
    assert run.output.splitlines() == [f"line {number}" for number in range(1, 61)]
    await assert_told_once(run)


async def test_a_full_disk_changes_no_outcome_and_is_owned_up_to(
    prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk(tmp_path, "2m") as small:
        monkeypatch.setenv("MOONMIND_WORKDIR", str(small / "jobs"))
        script = "dd if=/dev/zero of=$ARTIFACT_DIR/all bs=64k; echo after; exit 5"
        run = await Runner(small / "jobs")(shell(script))
        facts = run.run_json
    assert run.state.name == "Failed"
    assert (facts["outcome"], facts["exitCode"]) == ("failed", 5)
    assert facts["logs"]["complete"] is False
    await assert_told_once(run)


@pytest.fixture(scope="module")
def own_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    with OwnEngine(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_an_engine_that_restarts_takes_an_attempt_along_and_another_follows(
    runner: Runner,
    own_engine: OwnEngine,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    def restart() -> None:
        own_engine.await_output("up")
        own_engine.end(number)
        own_engine.start()

    monkeypatch.setenv("DOCKER_HOST", own_engine.url)
    script = "if [ -e /cache/second ]; then exit 0; fi; touch /cache/second; echo up; sleep 300"
    cache = {"name": f"cache-{number}", "target": "/cache"}
    run, _ = await asyncio.gather(
        runner(shell(script, cacheVolumes=[cache])), asyncio.to_thread(restart)
    )
    assert run.state.name == "Completed", run.message
    await assert_told_once(run, attempts=2)
    assert left_on_engine(run.job_id, own_engine.url) == []
    first = json.loads((run.folder / "attempts/1/container/metadata/run.json").read_text())
    assert (first["outcome"], first["stoppedBy"]) == ("infrastructure", "engine")
    assert first["exitCode"] == 143
    assert first["logs"]["complete"] is True
