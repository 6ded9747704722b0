"""Run any container image and command as a queued Prefect task.

| room           | what is in it                                                | begin with       |
| -------------- | ------------------------------------------------------------ | ---------------- |
| the hall       | the three flows, and the nouns that every room knows         | `container_task` |
| `payload`      | a queue's JSON, held against the policy, to `ContainerSpec`  | `parse`          |
| `engine`       | what runs containers: contract, `docker`, pulls of `images`  | `contract`       |
| `workspace`    | a job's folder: checkout, logs, reading what a stranger left | `folder`         |
| `outputs`      | files and test reports of a task: collected, uploaded        | `collect`        |
| `report`       | what people and programs are told: run.json, page, events    | `run_json`       |
| `runtime`      | one attempt: preparation, publication, and after a crash     | `execution`      |
| `worker`       | the worker of pools of type `container-task`, and its sweep  | `worker`         |
| `docker_proxy` | a process of its own before the Docker socket                | `calls`          |
| `cli`          | the command `container-task`, with `doctor` and `replay`     | `commands`       |
| `testing`      | the pytest plugin for those who test their own payloads      | `fixtures`       |

The hall: `spec` (what will run), `attempt` and `outcome` (how far it got, how it ended), `results`
(what it left), `settings` (`MOONMIND_*`), `certificates`, `errors`, `exit_code`, `masking`,
`memory_file`, `spellings`, `text`, `threads`, `units`.

A room imports only those below it; import-linter holds the order, which stands in pyproject.toml.
"""
