"""The command `container-task`: submit, watch, look at, check and replay runs, and check a host.

| module | what it has |
| --- | --- |
| `commands` | the words of the command line; nothing heavy is imported before a command is called |
| `console` | standard output and error, JSON, and the exit statuses |
| `prefect_api` | a client of Prefect's API, and a sentence for each of its failures |
| `runs` | a flow run by its id, name or address, and its outcome, report and metadata |
| `follow` | a run's log until the run is over |
| `check`, `submit`, `status`, `automations` | what the commands of these names do |
| `doctor`, `replay` | the commands of these names, each a package |
"""

from flows.cli.commands import app, main, run

__all__ = ["app", "main", "run"]
