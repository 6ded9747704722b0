"""`container-task doctor`: checks of a host, its engine and its Prefect server before it gets work.

| module | what it has |
| --- | --- |
| `command` | which checks are carried out, and how their findings are printed |
| `checkup` | checks, findings, the loop that runs checks side by side; this host's |
| `engine`, `probe` | the Docker Engine, what stands before it, and two small tasks run on it |
| `old_secrets` | Secret blocks that opened repositories once |
| `server` | Prefect's API, deployment, pool, workers, queue and sweep, and the blocks saved in it |
"""
