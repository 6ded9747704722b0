"""`container-task replay`: a recorded run once more, on this machine, with a look inside on demand.

| module | what it has |
| --- | --- |
| `command` | what is replayed, by the words of the command, and how its end is printed |
| `recording` | a payload with image digest and commit, from Prefect's API or from a `run.json` |
| `place` | the folder for replays, and policy, secrets and log-ins of a server or of here |
| `replay` | the run itself, by the functions of `flows.runtime` |
| `shell` | commands that show a kept container |
| `leftovers` | removal of what a replay leaves, at its end or by `--clean` |
"""
