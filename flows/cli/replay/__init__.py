"""`container-task replay`: a recorded run once more, on this machine, with a look inside on demand.

| module | what it has |
| --- | --- |
| `command` | what is replayed, by the words of the command; how it ended, and how to look inside |
| `recording` | a payload with image digest and commit, from Prefect's API or from a `run.json` |
| `replay` | the run itself, by `flows.runtime`, with policy and secrets of a server or of here |
| `leftovers` | removal of what a replay leaves, at its end or by `--clean` |
"""
