"""`container-task check`: a payload validated and compiled, without Docker and Prefect."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from flows.cli.console import Console, ExitStatus
from flows.errors import Fault, PayloadError
from flows.payload.compiler import compile_spec
from flows.payload.models import TaskPayload
from flows.payload.parse import misplaced, runnable
from flows.payload.policy import Policy
from flows.settings import HostSettings
from flows.spec import JOB_ID_PLACEHOLDER, Run
from flows.workspace.folder import Workspace


def check_payload(console: Console, name: str) -> int:
    """Print the canonical payload and the spec of the file `name`."""
    task, host = checked_payload(console, read_json(name)), HostSettings.from_environment()
    run = Run(JOB_ID_PLACEHOLDER, attempt=1, worker=host.worker, now=datetime.now(UTC))
    workspace = Workspace(host.workdir, run.job_id, host.workspace_volume)
    default = host.timeout_seconds
    spec = compile_spec(task, Policy(), workspace.mount, run, default_timeout_seconds=default)
    canonical = task.canonical()
    if task.remote:
        canonical["repository"] = task.remote.display
    console.document({"payload": canonical, "spec": spec.as_json()})
    return ExitStatus.SUCCEEDED


def checked_payload(console: Console, raw: object) -> TaskPayload:
    """The payload, if this runner would run it. Raises `PayloadError` with every fault."""
    task = runnable(raw)
    for sentence in misplaced(task):
        console.say(sentence)
    return task


def read_json(name: str) -> object:
    """The JSON value in the file `name`; raises `PayloadError` for what cannot be read."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise PayloadError([Fault(name, f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        raise PayloadError([Fault(name, f"is not UTF-8 text (byte {error.start})")]) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise PayloadError([Fault(name, f"is not JSON: {error.msg} at {where}")]) from None
    except ValueError:
        raise PayloadError([Fault(name, "is not a payload: a number is too long")]) from None
    except RecursionError:
        raise PayloadError([Fault(name, "is not a payload: nested too deeply")]) from None
