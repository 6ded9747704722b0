"""The command `container-task`."""

import json
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from flows.errors import Fault, HostMisconfigured, PayloadError
from flows.host import HostSettings
from flows.payload import TaskPayload, parse, require_runnable
from flows.policy import Policy
from flows.repository import Remote
from flows.rules import JOB_ID_PLACEHOLDER
from flows.spec import Run, compile_spec
from flows.workspace import Workspace

BAD_INPUT = 2

app = App(
    name="container-task",
    help="Run any container image and command as a queued Prefect task.",
    version=version("moonmind-container-runner"),
)
# By its name: Prefect's client takes seconds to load, which `check` does without.
app.command(
    "flows.cli_automations:deploy_automations",
    name="deploy-automations",
    help="Make or change automations on the Prefect server as files of YAML say; a line for each.",
)


@app.command
def check(
    payload: Annotated[
        str,
        Parameter(
            help="A file with the payload, or - for standard input.", allow_leading_hyphen=True
        ),
    ],
    /,
) -> int:
    """Print the canonical payload and the compiled spec as JSON; touch neither Docker nor Prefect.

    Exit status 0, or 2 with what is wrong on standard error: every fault of the payload, one a
    line with its JSON path, or a variable of this host that has a wrong value. The spec is the
    one that this host's settings and the built-in policy give.
    """
    try:
        task = parse(_read(payload))
        require_runnable(task)
        decided = _decided(task)
    except PayloadError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        return BAD_INPUT
    except HostMisconfigured as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    print(json.dumps(decided, indent=2))
    return 0


def main() -> None:
    """The console script."""
    sys.exit(app())


def _read(name: str) -> object:
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


def _decided(task: TaskPayload) -> dict[str, Any]:
    host = HostSettings.from_environment()
    run = Run(JOB_ID_PLACEHOLDER, attempt=1, worker=host.worker, now=datetime.now(UTC))
    spec = compile_spec(
        task,
        Policy(),
        Workspace(host.workdir, run.job_id, host.workspace_volume).mount,
        run,
        default_timeout_seconds=host.timeout_seconds,
    )
    canonical = task.canonical()
    if task.repository:
        canonical["repository"] = Remote.parse(task.repository).display
    return {"payload": canonical, "spec": spec.as_json()}
