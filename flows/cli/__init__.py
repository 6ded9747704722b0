"""The command `container-task`: submit, watch, look at, check and replay runs, and check a host.

| module | what it has |
| --- | --- |
| `commands` | the words of the command line; nothing heavy is imported before a command is called |
| `console` | standard output and error, JSON, and the exit statuses |
| `prefect_api` | a sentence for each failure of Prefect's API, and runs by id, name or address |
| `follow` | a run's log until the run is over |
| `runs` | the commands `submit`, `status`, `logs` and `open` |
| `check`, `automations` | the commands of these names |
| `doctor`, `replay` | the commands of these names, each a package |
"""

from flows.cli.commands import app, main, run

__all__ = ["app", "main", "run"]
