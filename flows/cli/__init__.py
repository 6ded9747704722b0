"""The command `container-task`.

`commands` has its words and imports nothing heavy, so that help and `check` come at once; what a
command does is in a module of its own: `checking`, `submitting`, `runs`, `replaying`, `checkups`.
They say everything through `console`, talk to Prefect's API through `api`, find runs with
`finding` and follow them with `following`; `exit_status` has the numbers that a shell gets.
"""

from flows.cli.commands import app, main

__all__ = ["app", "main"]
