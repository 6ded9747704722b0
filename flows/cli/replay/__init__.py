"""`container-task replay`: a recorded run once more, on this machine, with a look inside on demand.

| module | what it has |
| --- | --- |
| `command` | what is replayed, by the words of the command; how it ended, and how to look inside |
| `given` | the values of secrets that options give |
| `recording` | a payload with digest and commit, or a `run.json`; removal of what is left |
| `replay` | the run itself, by `flows.runtime`, with policy and secrets of a server or of here |
"""
