"""The main job of scripts/run: a server, a worker, one payload, what became of it."""

import argparse
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from flows.outcome import OutcomeName
from flows.payload.parse import parse
from flows.workspace.folder import Workspace
from scripts.stack import DEPLOYMENT, ROOT, Stack, StackError, end_group, free_port

HOME = ROOT / ".run"
KEPT = HOME / "kept.json"
COMMAND = Path(sys.executable).with_name("container-task")
_CANCEL_SECONDS = 60.0


def main() -> int:
    """Parse the words and do what they say; the exit status is the outcome's."""
    words = _parser().parse_args()
    try:
        return _stop_kept() if words.stop else _run(words)
    except StackError as error:
        _say(str(error))
        return 1
    except httpx.HTTPError as error:
        _say(f"Prefect's server does not answer as it should: {error}")
        return 1
    except KeyboardInterrupt:
        _say("Interrupted.")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/run",
        description="Run one container task from nothing: engine, Prefect server, worker, result.",
        epilog="Exit status: 0 when the outcome is `succeeded`, 2 for a payload that is refused "
        "before anything starts, 1 for everything else.",
    )
    default = ROOT / "examples" / "hello.json"
    parser.add_argument(
        "payload", nargs="?", type=Path, default=default, help="default: examples/hello.json"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave server and worker running, for a look at the UI"
    )
    parser.add_argument("--stop", action="store_true", help="stop what --keep left running")
    parser.add_argument("--image", help=argparse.SUPPRESS)
    return parser


def _run(words: argparse.Namespace) -> int:
    payload = json.loads(words.payload.read_text())
    if words.image:
        payload["task"]["container"]["image"] = words.image
    with _alone():
        kept = _kept()
        if kept is None:
            return _run_alone(payload, keep=words.keep)
    stack, pids = kept
    _say(f"Using the server that --keep left running at {stack.address}.")
    return _submit(stack, pids, payload)


def _run_alone(payload: Any, *, keep: bool) -> int:
    stack = Stack(HOME, free_port(4200), _own_workdir())
    try:
        with _Progress("Starting Prefect's server and a worker"):
            stack.start()
        pids = {name: stack.process(name).pid for name in ("worker", "server")}
        status = _submit(stack, pids, payload)
    except BaseException:
        stack.stop()
        raise
    _leave(stack, pids, keep=keep)
    return status


@contextmanager
def _alone() -> Iterator[None]:
    """Hold this checkout's lock: one session's end would stop the server of another."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(
                "Another scripts/run is at work in this checkout: waiting until it ends "
                "(a server that --keep leaves serves several at a time)."
            )
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _submit(stack: Stack, pids: Mapping[str, int], payload: Any) -> int:
    """Submit through the prefect command, show the run's log as it comes, and tell the end."""
    artifacts_subdir = parse(payload).task.container.artifacts_subdir
    _say(f"prefect deployment run {DEPLOYMENT} --param payload=…")
    run_id = stack.submit(payload)
    try:
        ended = follow(stack, pids, run_id)
    except KeyboardInterrupt:
        _cancel(stack, run_id)
        raise
    return _tell(stack, run_id, ended, artifacts_subdir)


def follow(stack: Stack, pids: Mapping[str, int], run_id: str) -> dict[str, Any]:
    """Print what `container-task logs --follow` tells of a flow run until it is over; its last
    record, which has outcome and message.

    Raises `StackError` when one of the processes `pids` has ended before.
    """
    words = [str(COMMAND), "logs", "--follow", "--json", run_id]
    ended: list[str] = []

    def end_with_any() -> None:
        while command.poll() is None:
            ended.extend(name for name, pid in pids.items() if not _runs(name, pid))
            if ended:
                command.terminate()
            time.sleep(0.5)

    with subprocess.Popen(
        words, env=stack.environment, stdout=subprocess.PIPE, text=True
    ) as command:
        threading.Thread(target=end_with_any, daemon=True).start()
        try:
            assert command.stdout is not None
            record = {"error": "container-task logs ended before the run did"}
            for record in map(json.loads, command.stdout):
                if record.get("kind") == "log":
                    moment = datetime.fromisoformat(record["timestamp"]).astimezone()
                    print(f"{moment:%H:%M:%S} {record['message']}", flush=True)
        finally:
            command.terminate()
    if ended:
        raise StackError(f"The {ended[0]} ended before the run did; see {stack.log(ended[0])}")
    if record.get("kind") != "ended":
        raise StackError(record.get("error", str(record)))
    return record


def _tell(stack: Stack, run_id: str, ended: Mapping[str, Any], artifacts_subdir: str) -> int:
    workspace = Workspace(stack.jobs, run_id)
    run_json = workspace.run_json(artifacts_subdir)
    found = run_json.is_file()
    print()
    print(f"Outcome   {ended['outcome']}: {ended['message']}")
    print(f"run.json  {run_json if found else 'none: the run ended before its container'}")
    if found:
        print(f"Output    {workspace.runner_log(artifacts_subdir)}")
        print(f"Stages    {workspace.execute_log}")
    print(f"UI        {ended['url']}")
    return 0 if ended["outcome"] == OutcomeName.SUCCEEDED else 1


def _cancel(stack: Stack, run_id: str) -> None:
    """Let the worker stop the container before the worker itself is stopped."""
    _say("Cancelling the run, so that its container goes too.")
    with suppress(StackError, httpx.HTTPError):
        stack.prefect("flow-run", "cancel", run_id)
        stack.await_final(run_id, _CANCEL_SECONDS)


def _leave(stack: Stack, pids: Mapping[str, int], *, keep: bool) -> None:
    if not keep:
        stack.stop()
        _say("Server and worker are stopped; scripts/run --keep leaves them for a look at the UI.")
        return
    kept = {"port": stack.port, "workdir": str(stack.jobs), "pids": pids}
    KEPT.write_text(json.dumps(kept))
    _say(f"Server and worker stay: {stack.address} · stop them with scripts/run --stop")
    _say("The commands of the README work on them after:")
    print("source .venv/bin/activate")
    print(f"export PREFECT_API_URL={stack.address}/api MOONMIND_WORKDIR={stack.jobs}")


def _kept() -> tuple[Stack, dict[str, int]] | None:
    """The stack that an earlier --keep left, with its processes, if all of it still works."""
    if not KEPT.exists():
        return None
    kept = json.loads(KEPT.read_text())
    # The worker that was left keeps the folder that it was started with.
    stack = Stack(HOME, kept["port"], {"MOONMIND_WORKDIR": kept["workdir"]})
    pids = kept["pids"]
    if all(_runs(name, pid) for name, pid in pids.items()) and stack.answers():
        return stack, pids
    _say("Of what --keep left, not all is at work any more.")
    _stop_kept()
    return None


def _stop_kept() -> int:
    if not KEPT.exists():
        _say("Nothing was left running.")
        return 0
    for name, pid in json.loads(KEPT.read_text())["pids"].items():
        if _runs(name, pid):
            end_group(pid, partial(_await_end, pid))
    KEPT.unlink(missing_ok=True)
    _say("Server and worker are stopped.")
    return 0


def _runs(name: str, pid: int) -> bool:
    """Whether the process is there; a number that was reused since belongs to somebody else."""
    return f"prefect\0{name}".encode() in _command_line(pid)


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _await_end(pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while _command_line(pid):
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.1)


def _own_workdir() -> dict[str, str]:
    """The caller's MOONMIND_WORKDIR, where it is set, in place of a folder of this checkout."""
    return {key: value for key, value in os.environ.items() if key == "MOONMIND_WORKDIR"}


class _Progress:
    """A line that says what is being waited for, and how long it took."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        self._began = time.monotonic()
        _say(f"{self._doing} …")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            _say(f"Ready after {time.monotonic() - self._began:.0f} s.")


def _say(sentence: str) -> None:
    print(f"==> {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
