"""The command line, declared with cyclopts: commands, options and their help.

Each command imports what does it when it is called: Prefect alone takes more than a second.
"""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from flows.cli.console import CommandError, Console, ExitStatus, answer

_NAME = "container-task"

app = App(
    name=_NAME,
    help="Run any container image and command as a queued Prefect task.",
    version=lambda: version("moonmind-container-runner"),
)
app.register_install_completion_command(help="Make the shell complete the words of this command.")

Payload = Annotated[
    str,
    Parameter(help="A file with the payload, or - for standard input.", allow_leading_hyphen=True),
]
Run = Annotated[
    str,
    Parameter(help="A run: its id, the beginning of its id, its name, or its address in the UI."),
]


def _flag(words: str, *names: str) -> Parameter:
    return Parameter(name=names or None, negative=(), show_default=False, help=words)


Json = Annotated[bool, _flag("Print JSON, and nothing else, on standard output.", "--json")]


@app.command
def submit(
    payload: Payload,
    /,
    *,
    watch: Annotated[bool, _flag("Show the log until the run is over.")] = False,
    cancel_on_interrupt: Annotated[
        bool, _flag("Cancel the run when the watching is interrupted.")
    ] = False,
    idempotency_key: Annotated[
        str | None, Parameter(help="Start one run for this key, however often it is submitted.")
    ] = None,
    deployment: Annotated[
        str, Parameter(help="The deployment that runs it.")
    ] = "container-task/docker",
    tag: Annotated[tuple[str, ...], _flag("A tag for the run; may be given again.")] = (),
    json: Json = False,
) -> int:
    """Start a run for a payload, and print its id, name and address.

    The payload is checked first: one with faults is not submitted, and every fault is told. With
    --watch the log is shown as it comes and the exit status is that of the outcome. To interrupt
    the watching (Ctrl-C) leaves the run as it is, unless --cancel-on-interrupt is given.
    """
    from flows.cli.runs import Submission, submit_payload

    asked = Submission(payload, deployment, idempotency_key, tag, watch, cancel_on_interrupt)
    return answer(lambda console: submit_payload(console, asked), as_json=json)


@app.command
def check(payload: Payload, /, *, json: Json = False) -> int:
    """Print the canonical payload and the compiled spec as JSON; touch neither Docker nor Prefect.

    Exit status 0, or 2 with what is wrong on standard error: every fault of the payload, one a
    line with its JSON path, or a variable of this host that has a wrong value. The spec is the
    one that this host's settings and the built-in policy give. With --json, faults are JSON too.
    """
    from flows.cli.check import check_payload

    return answer(lambda console: check_payload(console, payload), as_json=json)


@app.command
def status(run: Run, /, *, json: Json = False) -> int:
    """Tell how a run stands or how it ended, with its report."""
    from flows.cli.runs import show_status

    return answer(lambda console: show_status(console, run), as_json=json)


@app.command
def logs(
    run: Run,
    /,
    *,
    follow: Annotated[bool, _flag("Go on until the run is over.", "--follow", "-f")] = False,
    json: Json = False,
) -> int:
    """Print a run's log: what its stages did, and its container's output.

    With --follow, the exit status is that of the outcome. With --json, a line of JSON a record.
    """
    from flows.cli.runs import show_logs

    return answer(lambda console: show_logs(console, run, follow=follow), as_json=json)


@app.command(name="open")
def open_(
    run: Run,
    /,
    *,
    print_only: Annotated[bool, _flag("Start no browser.", "--print")] = False,
    json: Json = False,
) -> int:
    """Print a run's address in the UI, and show it in a browser where a terminal has one."""
    from flows.cli.runs import open_page

    return answer(lambda console: open_page(console, run, browse=not print_only), as_json=json)


@app.command
def replay(
    what: Annotated[
        str | None,
        Parameter(
            help="A run, as for status; or a file: a run.json, a payload, or - for standard input.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    /,
    *,
    keep: Annotated[
        bool, _flag("Keep the stopped container and its folder, and tell how to look inside.")
    ] = False,
    secret: Annotated[
        tuple[str, ...],
        Parameter(
            help="Give the secret NAME the value of this environment's variable NAME; may be given "
            "again.",
            negative=(),
        ),
    ] = (),
    secret_file: Annotated[
        tuple[str, ...],
        Parameter(
            help="Give a secret what a file has: NAME=FILE; may be given again.", negative=()
        ),
    ] = (),
    clean: Annotated[bool, _flag("Remove what earlier replays kept, instead.")] = False,
    folder: Annotated[
        Path | None, Parameter(help="Where replays have their folders; the engine must see it.")
    ] = None,
    json: Json = False,
) -> int:
    """Run the same spec again, here: the same image by digest, command, limits and commit.

    It runs on this machine's Docker Engine, through the code that runs tasks, and shows the output
    as it comes; neither Prefect's server nor its workers take notice. Values of secrets come from
    their Prefect blocks, or from --secret and --secret-file. The exit status is that of the
    outcome.
    """
    from flows.cli.replay.command import clean_replays, replay_run
    from flows.cli.replay.given import given_values

    if clean:
        return answer(lambda console: clean_replays(console, what, folder), as_json=json)

    def replayed(console: Console) -> int:
        values = given_values(secret, secret_file)
        return replay_run(console, what, folder, keep=keep, secrets=values)

    return answer(replayed, as_json=json)


@app.command
def doctor(
    *,
    only: Annotated[
        tuple[Literal["host", "engine", "prefect"], ...],
        Parameter(help="Look at this part alone; may be given again.", negative=()),
    ] = (),
    deployment: Annotated[
        str, Parameter(help="The deployment that is to run tasks.")
    ] = "container-task/docker",
    quiet_seconds: Annotated[
        float,
        Parameter(
            help="How long a quiet connection to a remote engine must last; 660 tries the "
            "time-outs of most proxies."
        ),
    ] = 75.0,
    json: Json = False,
) -> int:
    """Check everything a task needs before work is accepted, and say how to mend each fault.

    Run it where the worker runs, with the worker's environment. Exit status 0 where no check
    failed, 1 where one did. It removes what it makes, but for moonmind-doctor.txt where a storage
    lets nobody remove files.
    """
    from flows.cli.doctor.command import examine

    return answer(lambda console: examine(console, only, deployment, quiet_seconds), as_json=json)


@app.command
def deploy_automations(
    *files: Annotated[
        str,
        Parameter(
            help="Files, folders with files *.yaml, or - for standard input.",
            allow_leading_hyphen=True,
        ),
    ],
    json: Json = False,
) -> int:
    """Make or change automations on Prefect's server as files of YAML say; a line for each.

    An automation is known by its name, so the command can be given again.
    """
    from flows.cli.automations import deploy_files

    return answer(lambda console: deploy_files(console, files), as_json=json)


def run(words: Sequence[str]) -> int:
    """Carry out what the words of a command line say; the exit status."""
    try:
        status = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        what = " ".join(str(error).split())
        command = " ".join((_NAME, *(error.command_chain or ())))
        Console(as_json="--json" in words).fail(CommandError(f"{what} See {command} --help."))
        return ExitStatus.BAD_INPUT
    return int(status or 0)


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))
