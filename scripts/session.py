"""The main job of scripts/run: a server, a worker, one payload, what became of it."""

import argparse
import json
import os
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from scripts.stack import (
    DEPLOYMENT,
    ROOT,
    Stack,
    StackError,
    end_group,
    flow_run_id,
    follow,
    free_port,
)

HOME = ROOT / ".run"
KEPT = HOME / "kept.json"
_CANCEL_SECONDS = 60.0


def main() -> int:
    """Parse the words and do what they say; the exit status is the outcome's."""
    words = _parser().parse_args()
    try:
        return _stop_kept() if words.stop else _run(words)
    except StackError as error:
        _say(str(error))
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
    kept = _kept()
    if kept is None:
        stack = Stack(HOME, free_port(4200), _own_workdir())
        try:
            with _Progress("Starting Prefect's server and a worker"):
                stack.start()
            status = _submit(stack, payload)
        except BaseException:
            stack.stop()
            raise
        _leave(stack, keep=words.keep)
        return status
    _say(f"Using the server that --keep left running at {kept.address}.")
    return _submit(kept, payload)


def _submit(stack: Stack, payload: Any) -> int:
    """Submit through the prefect command, show the worker's output, and tell the end."""
    text = json.dumps(payload)
    command = ["deployment", "run", DEPLOYMENT, "--param", f"payload={text}"]
    _say(f"prefect deployment run {DEPLOYMENT} --param payload=…")
    worker_log = stack.log("worker")
    start = worker_log.stat().st_size
    run_id = flow_run_id(stack.prefect(*command))
    final: dict[str, Any] = {}
    waiting = threading.Thread(
        target=lambda: final.update(stack.await_final(run_id, seconds=float("inf"))), daemon=True
    )
    try:
        waiting.start()
        for line in follow(worker_log, start, lambda: not waiting.is_alive()):
            print(line, flush=True)
    except KeyboardInterrupt:
        _cancel(stack, run_id)
        raise
    return _tell(stack, run_id, final)


def _tell(stack: Stack, run_id: str, final: dict[str, Any]) -> int:
    artifacts = stack.jobs / run_id / "artifacts"
    found = next(iter(artifacts.glob("**/metadata/run.json")), None)
    outcome = json.loads(found.read_text())["outcome"] if found else final["state_name"]
    print()
    print(f"Outcome   {outcome}: {final['state']['message']}")
    print(f"run.json  {found or 'none: the run ended before its container'}")
    if found:
        print(f"Output    {found.parent.parent / 'logs' / 'runner.log'}")
        print(f"Stages    {artifacts / 'logs' / 'execute.log'}")
    print(f"UI        {stack.address}/runs/flow-run/{run_id}")
    return 0 if outcome == "succeeded" else 1


def _cancel(stack: Stack, run_id: str) -> None:
    """Let the worker stop the container before the worker itself is stopped."""
    _say("Cancelling the run, so that its container goes too.")
    with suppress(StackError):
        stack.prefect("flow-run", "cancel", run_id)
        stack.await_final(run_id, _CANCEL_SECONDS)


def _leave(stack: Stack, *, keep: bool) -> None:
    if not keep:
        stack.stop()
        _say("Server and worker are stopped; scripts/run --keep leaves them for a look at the UI.")
        return
    pids = {name: stack.process(name).pid for name in ("worker", "server")}
    KEPT.write_text(json.dumps({"port": stack.port, "pids": pids}))
    _say(f"Server and worker stay: {stack.address} · stop them with scripts/run --stop")


def _kept() -> Stack | None:
    """The stack that an earlier --keep left, if it still answers."""
    if not KEPT.exists():
        return None
    stack = Stack(HOME, json.loads(KEPT.read_text())["port"], _own_workdir())
    return stack if stack.answers() else None


def _stop_kept() -> int:
    if not KEPT.exists():
        _say("Nothing was left running.")
        return 0
    for name, pid in json.loads(KEPT.read_text())["pids"].items():
        # A number that was reused since belongs to somebody else.
        if f"prefect\0{name}".encode() in _command_line(pid):
            end_group(pid, partial(_await_end, pid))
    KEPT.unlink()
    _say("Server and worker are stopped.")
    return 0


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
