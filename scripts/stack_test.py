"""The compose stack from nothing: up, refusals, a task, and a storm in which its parts are killed.

Needs root and an engine on this machine: the kills go to the processes, as the kernel's would.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from scripts.compose import Busy, Compose, run
from scripts.stack import DEPLOYMENT, FINAL, ROOT, StackError, flow_run_id
from scripts.stack_care import back_up_and_restore, documented, forget_next_image, upgrade
from tests.runs import BUSYBOX, left_on_engine, shell, until
from tests.weather import FINISHED, STARTED, Weather

# Each holds something that the others need: containers, messages, states, the API, the schedule.
VICTIMS = ("worker", "redis", "postgres", "prefect-server", "services")
# A run that a killed worker took and never began goes back into its queue after 3 to 4 minutes.
_LONGEST_SECONDS = 360.0
_TOLD_SECONDS = 180.0
# What the worker asks of the docker-proxy, and what it gets.
_REFUSED = (
    ("POST", "/containers/{id}/exec"),
    ("POST", "/containers/create?name=postgres"),
    ("POST", "/containers/{id}/update"),
    ("GET", "/containers/postgres/json"),
    ("POST", "/build"),
    ("GET", "/info"),
    ("GET", "/images/json"),
    ("GET", "/secrets"),
)
_FROM_INSIDE = """
import http.client, json, os
def status(method, path):
    connection = http.client.HTTPConnection("docker-proxy", 2375, timeout=20)
    connection.request(method, path.format(id=64 * "0"))
    return connection.getresponse().status
print(json.dumps({
    "uid": os.getuid(),
    "socket": os.path.exists("/var/run/docker.sock"),
    "ping": status("GET", "/_ping"),
    "statuses": [status(*call) for call in %r],
}))
"""


def main() -> int:
    """Parse the words and do what they say; the exit status is 0 when everything held."""
    words = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell without job control starts what runs in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    try:
        if os.geteuid() != 0:
            raise StackError("scripts/test-stack kills processes of containers: run it as root")
        _test(words.tasks, words.limit)
    except (StackError, Busy, AssertionError) as error:
        _say(f"FAILED after {time.monotonic() - began:.0f} s: {error}")
        return 1
    except KeyboardInterrupt:
        _say("Interrupted.")
        return 130
    _say(f"Everything held, in {time.monotonic() - began:.0f} s.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/test-stack",
        description="Bring the compose stack up from local stand-ins of its images, with a worker "
        "image built for real, see a task through it, kill its parts under load, upgrade it, back "
        "it up and restore it.",
        epilog="It has a project name, a port, volumes and passwords of its own, and removes what "
        "it made, but for the images. Exit status: 0 when everything held, else 1.",
    )
    parser.add_argument(
        "--tasks",
        type=int,
        default=16,
        help="how many are under way at each kill (default: %(default)s)",
    )
    parser.add_argument(
        "--limit", type=int, default=8, help="how many the worker runs at a time (default: 8)"
    )
    return parser


def _test(tasks: int, limit: int) -> None:
    with tempfile.TemporaryDirectory(prefix="moonmind-stack-") as folder:
        stack = Compose(Path(folder), {"WORKER_LIMIT": str(limit)})
        with _step("building the image of worker and server"):
            _build(stack)
        try:
            with stack:
                _see(stack, tasks)
        finally:
            run("docker", "volume", "rm", "--force", _ledger(stack))
            forget_next_image()


def _see(stack: Compose, tasks: int) -> None:
    try:
        with _step("bringing the stack up"):
            stack.shell(documented("The compose stack")[0][-1])
            stack.healthy("prefect-server", "services", "docker-proxy", "worker")
        with _step("asking without the password, and from inside the worker"):
            _ask_without_password(stack)
            _ask_from_inside(stack)
        with _step("a task, submitted as the documentation says"):
            _submit_as_documented(stack)
        runs: dict[str, str] = {}
        for victim in VICTIMS:
            with _step(f"{tasks} tasks, and SIGKILL to {victim}"):
                runs |= dict.fromkeys(_storm(stack, victim, tasks), victim)
        with _step("an upgrade while a task runs"):
            runs[upgrade(stack, partial(_submit, stack))] = "upgrade"
        with _step("waiting for the last of them"):
            until(lambda: len(_over(stack, list(runs))) == len(runs), _LONGEST_SECONDS)
        with _step("counting what became of them"):
            _count(stack, runs)
            _messages_go_through_redis(stack)
        with _step("a backup, the loss of everything, and a restore"):
            back_up_and_restore(stack, next(iter(runs)))
        with _step("schedules go on"):
            _schedules_go_on(stack)
    except (StackError, Busy, AssertionError):
        print(stack.compose("logs", "--no-color", "--tail", "60")[-20_000:], file=sys.stderr)
        raise


def _build(stack: Compose) -> None:
    """Build it, and drop the one that it replaces."""
    image = "moonmind-local/worker:test"
    before = _image_id(image)
    stack.compose("build", "worker")
    if before and before != _image_id(image):
        subprocess.run(["docker", "image", "rm", before], capture_output=True, check=False)


def _image_id(image: str) -> str:
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", image]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _ask_without_password(stack: Compose) -> None:
    for auth in (None, ("admin", "wrong")):
        answer = httpx.post(f"{stack.address}/api/flow_runs/count", auth=auth, timeout=30)
        assert answer.status_code == 401, f"the API answers {answer.status_code} to {auth}"
    assert stack.api("POST", "/flow_runs/count").status_code == 200
    page = httpx.get(stack.address, follow_redirects=True, timeout=30)
    assert "<html" in page.text, f"the UI answers {page.status_code}"


def _ask_from_inside(stack: Compose) -> None:
    found = stack.python("worker", _FROM_INSIDE % (_REFUSED,))
    assert found["uid"] != 0, "the worker is root"
    assert not found["socket"], "the worker has the Docker socket"
    assert found["ping"] == 200, f"the docker-proxy answers {found['ping']}"
    assert set(found["statuses"]) == {403}, f"{_REFUSED} are answered {found['statuses']}"


def _submit_as_documented(stack: Compose) -> None:
    """The example of the README, but for its image, and a file that belongs to root."""
    payload = json.loads((ROOT / "examples/hello.json").read_text())
    container = payload["task"]["container"]
    container |= {"image": BUSYBOX, "pull": "never"}
    container["command"][-1] += '; id -u; umask 077; echo mine > "$ARTIFACT_DIR/private"'
    (stack.home / "hello.json").write_text(json.dumps(payload))
    (line,) = documented("The compose stack")[1]
    line = line.replace("examples/", f"{stack.home}/")
    run_id = flow_run_id(stack.shell(line))
    final = stack.await_final(run_id)
    assert final["state_type"] == "COMPLETED", final["state"]["message"]
    files = stack.files(stack.workspaces)
    output = files[f"{run_id}/artifacts/container/logs/runner.log"].decode()
    assert output == f"Hello from {run_id}\n0\n", output
    facts = json.loads(files[f"{run_id}/artifacts/container/metadata/run.json"])
    listed = {each["path"] for each in facts["artifacts"]}
    assert {"container/greeting.txt", "container/private"} <= listed, listed


def _storm(stack: Compose, victim: str, tasks: int) -> list[str]:
    """Submit, kill when some have ended and others run, and wait until most are over."""
    # Long enough to be under way at the kill.
    submit = partial(_submit, stack, "sleep $((RANDOM % 4 + 1)); echo done")
    runs = [submit() for _ in range(tasks // 2)]
    until(lambda: len(_over(stack, runs)) >= 2, _LONGEST_SECONDS)
    stack.kill(victim)
    # While it comes back there is more to do.
    runs += [submit() for _ in range(tasks - len(runs))]
    stack.healthy(victim)
    until(lambda: len(_over(stack, runs)) >= tasks * 3 // 4, _LONGEST_SECONDS)
    return runs


def _ledger(stack: Compose) -> str:
    return f"{stack.project}_ledger"


def _submit(stack: Compose, script: str) -> str:
    """A task that leaves a mark for every time that it runs."""
    caches = [{"name": _ledger(stack), "target": "/ledger"}]
    payload = shell(f"echo ran >> /ledger/$JOB_ID; {script}", cacheVolumes=caches)
    deployment = stack.api("GET", f"/deployments/name/{DEPLOYMENT}").json()["id"]
    answer = stack.api(
        "POST",
        f"/deployments/{deployment}/create_flow_run",
        parameters={"payload": payload},
        state={"type": "SCHEDULED"},
        idempotency_key=str(uuid4()),
    )
    answer.raise_for_status()
    return str(answer.json()["id"])


def _over(stack: Compose, runs: list[str]) -> list[str]:
    # A run that crashed with its worker is taken up again.
    over = sorted(FINAL - {"CRASHED"})
    wanted = {"id": {"any_": runs}, "state": {"type": {"any_": over}}}
    found = stack.api("POST", "/flow_runs/filter", flow_runs=wanted, limit=200).json()
    return [each["id"] for each in found]


def _count(stack: Compose, runs: dict[str, str]) -> None:
    """`runs` are told by whose death they went through."""
    states = Counter((runs[each], stack.flow_run(each)["state_name"]) for each in runs)
    assert {name for _, name in states} == {"Completed"}, f"not all are Completed: {dict(states)}"
    ran = stack.files(_ledger(stack))
    assert ran == dict.fromkeys(runs, b"ran\n"), "not every container ran once"
    files = stack.files(stack.workspaces)
    outputs = {files[f"{each}/artifacts/container/logs/runner.log"] for each in runs}
    assert outputs == {b"done\n"}, f"outputs are {outputs}"
    left = [each for each in runs if left_on_engine(each)]
    assert not left, f"{left} left something on the engine"
    untold = set(runs)

    def all_told() -> bool:
        untold.difference_update([each for each in untold if _is_told_once(stack, each)])
        return not untold

    with suppress(AssertionError):
        until(all_told, _TOLD_SECONDS)
    told = {f"{each} ({runs[each]})": dict(Weather(stack).events(each)) for each in untold}
    assert not told, f"not all are told once: {told}"


def _is_told_once(stack: Compose, run_id: str) -> bool:
    told = Weather(stack).events(run_id)
    attempts = range(1, max((number for _, number in told), default=1) + 1)
    return told == {(event, number): 1 for event in (STARTED, FINISHED) for number in attempts}


def _schedules_go_on(stack: Compose) -> None:
    """The sweep of every minute is run by a worker that the services woke."""
    deployment = stack.api("GET", "/deployments/name/reap-orphans/docker").json()["id"]
    wanted: dict[str, Any] = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }

    def count() -> int:
        return int(stack.api("POST", "/flow_runs/count", **wanted).json())

    before = count()
    until(lambda: count() > before, 150)


def _messages_go_through_redis(stack: Compose) -> None:
    said = run("docker", "exec", stack.container("redis"), "redis-cli", "xinfo", "groups", "events")
    read = re.search(r"event-persister\n(?:.*\n)*?entries-read\n(\d+)", said)
    assert read, f"Redis knows no persister of events: {said}"
    assert int(read[1]) > 0, f"Redis carried no events: {said}"


@contextmanager
def _step(doing: str) -> Iterator[None]:
    """A line that says what was done, and how long it took."""
    began = time.monotonic()
    _say(f"{doing[0].upper()}{doing[1:]} …")
    yield
    _say(f"  {time.monotonic() - began:.0f} s.")


def _say(sentence: str) -> None:
    print(f"==> {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
