"""The command `container-task`.

`commands` has its words and imports nothing heavy, so that help and `check` come at once; what a
command does is in a module of its own: `checking`, `submitting`, `runs`, `replaying`, `checkups`,
`automating`. They say everything through `console`, talk to Prefect's API through `api`, find runs
with `finding`, follow them with `following`, which has `patience` with the API, and know how they
ended by `endings`; `showing` and `looking` are the output of a replay and the ways to look into
it. `exit_status` has the numbers that a shell gets.
"""

from flows.cli.commands import app, main, run

__all__ = ["app", "main", "run"]
