"""What a soak asks of Prefect's server; while that is away, it asks again."""

from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, Self

import httpx
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from benchmarks.soaking.plan import Task, Word
from scripts.stack import DEPLOYMENT, Stack

_PAGE = 200
# Marks what people do, in the message of their state.
_PERSON = "A person says"
_STATES: dict[Word, dict[str, Any]] = {
    Word.CANCEL: {"type": "CANCELLING"},
    Word.SUSPEND: {
        "type": "PAUSED",
        "name": "Suspended",
        "state_details": {"pause_reschedule": True},
    },
    Word.RETRY: {"type": "SCHEDULED", "name": "AwaitingRetry"},
    Word.SET_FAILED: {"type": "FAILED"},
    Word.SET_COMPLETED: {"type": "COMPLETED"},
    Word.SET_CANCELLED: {"type": "CANCELLED"},
}


class State(NamedTuple):
    """One of a run's history."""

    type: str
    name: str
    message: str
    at: datetime

    @property
    def is_a_persons(self) -> bool:
        return self.message.startswith(_PERSON)


class Event(NamedTuple):
    """`started` or `finished`, as it was stored."""

    name: str
    attempt: int
    outcome: str
    exit_code: int | None
    at: datetime


class _Away(Exception):
    """It does not answer, or that it cannot."""


class Server:
    """The API, over connections that last."""

    def __init__(self, stack: Stack) -> None:
        self._client = httpx.Client(base_url=f"{stack.address}/api", timeout=30)
        self._deployment = ""

    def __enter__(self) -> Self:
        self._deployment = self._ask("GET", f"/deployments/name/{DEPLOYMENT}").json()["id"]
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def submit(self, seed: int, task: Task) -> str:
        """One run for each seed and number, however often it is asked for."""
        answer = self._ask(
            "POST",
            f"/deployments/{self._deployment}/create_flow_run",
            parameters={"payload": task.payload},
            idempotency_key=f"{seed}-{task.number}",
            state={"type": "SCHEDULED"},
            enforce_parameter_schema=False,
        )
        return str(answer.raise_for_status().json()["id"])

    def say(self, word: Word, run_id: str) -> bool:
        """Whether the server took it."""
        if word is Word.DELETE:
            return self._ask("DELETE", f"/flow_runs/{run_id}").status_code == 204
        if word is Word.RESUME:
            answer = self._ask("POST", f"/flow_runs/{run_id}/resume")
        else:
            state = {"message": f"{_PERSON} {word}.", **_STATES[word]}
            answer = self._ask("POST", f"/flow_runs/{run_id}/set_state", state=state)
        return answer.is_success and answer.json()["status"] == "ACCEPT"

    def types(self, run_ids: Iterable[str]) -> dict[str, str]:
        """For each run that is there, the type of its state."""
        ids, found = iter(run_ids), dict[str, str]()
        while page := list(islice(ids, _PAGE)):
            wanted = {"id": {"any_": page}}
            runs = self._ask("POST", "/flow_runs/filter", flow_runs=wanted, limit=_PAGE)
            for run in runs.raise_for_status().json():
                found[run["id"]] = run["state_type"]
        return found

    def history(self, run_id: str) -> list[State]:
        """Oldest first; nothing of a run that was deleted."""
        states = self._ask("GET", f"/flow_run_states/?flow_run_id={run_id}")
        told = [
            State(each["type"], each["name"], each["message"] or "", _time(each["timestamp"]))
            for each in states.raise_for_status().json()
        ]
        return sorted(told, key=lambda state: state.at)

    def events(self, run_id: str) -> list[Event]:
        """All of the run's attempts, oldest first."""
        wanted = {"resource": {"id": [f"moonmind.task.{run_id}"]}, "order": "ASC"}
        answer = self._ask("POST", "/events/filter", filter=wanted, limit=50).raise_for_status()
        return [
            Event(
                each["event"].rpartition(".")[2],
                each["payload"]["attempt"],
                each["payload"].get("outcome", ""),
                each["payload"].get("exitCode"),
                _time(each["occurred"]),
            )
            for each in answer.json()["events"]
        ]

    @retry(
        retry=retry_if_exception_type((_Away, httpx.TransportError)),
        wait=wait_fixed(0.5),
        stop=stop_after_delay(180),
        reraise=True,
    )
    def _ask(self, method: str, path: str, **body: object) -> httpx.Response:
        answer = self._client.request(method, path, json=body or None)
        if answer.status_code >= 500:
            raise _Away(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
