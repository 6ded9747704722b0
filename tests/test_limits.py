"""The time limits behind the engine's deadline, which only fire when that does not."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flows.engine.docker.engine import DockerEngine
from flows.runtime.cancellation import Cancellation
from flows.spec import execute_seconds, flow_seconds
from tests.runs import Runner, shell
from tests.specs import compiled
from tests.strategies import FULL
from tests.test_storms import assert_told_once


def test_each_limit_is_longer_than_the_one_inside_it() -> None:
    spec = compiled(FULL)
    inner = spec.pull_timeout_seconds + spec.timeout_seconds + spec.stop_grace_seconds
    assert inner < execute_seconds(spec) < flow_seconds(spec)


async def _never(*_: object) -> Any:
    await asyncio.Event().wait()


@pytest.mark.docker
@pytest.mark.parametrize("fires", ["execute", "flow"])
async def test_whichever_limit_fires_the_outcome_is_timed_out_with_the_real_exit_code(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, fires: str, tmp_path: Path
) -> None:
    monkeypatch.setattr("flows.spec.EXECUTE_SLACK_SECONDS", 0.0)
    monkeypatch.setattr("flows.spec.FLOW_SLACK_SECONDS", 1.0)
    # The engine's deadline never comes; and for the flow's, nor does the stage's own.
    monkeypatch.setattr(DockerEngine, "wait", _never)
    if fires == "flow":
        monkeypatch.setattr(Cancellation, "request", lambda self, reason: None)
    script = "trap 'echo got it; exit 9' TERM; echo up; while true; do sleep 0.1; done"
    task = shell(script, timeoutSeconds=1, pullTimeoutSeconds=1, stopGraceSeconds=2)
    run = await runner(task)
    assert run.state.name == "TimedOut", run.message
    facts = run.run_json
    assert (facts["outcome"], facts["exitCode"]) == ("timed-out", 9)
    assert (facts["timedOut"], facts["stoppedBy"]) == (True, "deadline")
    assert run.output.splitlines() == ["up", "got it"]
    await assert_told_once(run)
