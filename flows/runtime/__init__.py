"""One attempt of a job, from the payload to what is published of it.

| module | what it does |
| --- | --- |
| `prepare`, `surroundings`, `credentials` | policy, spec, folder, `git clone`; the blocks for it |
| `attempts` | an attempt's stages, for the flow, for a hook, and for the sweep |
| `execution`, `ending` | the engine's calls in order; stop, outcome and removal of a container |
| `collect`, `publish` | outputs and test reports; `run.json`, upload and Prefect artifacts |
| `lifecycle` | the state machine of a run's life: what is done to it next |
| `history` | what the states of a run say: requests, deaths, words that a state of ours replaced |
| `ownership` | whose a run is: claims, take-overs, and where something of it may still be |
| `driver` | brings a run that no process carries as far as it goes; its `steps`, `run_states` |
| `recovery` | Prefect's state hooks; what was left on other hosts |
| `api_client` | Prefect's client, whose final states refuse claims that come late |
| `store` | the attempts of a job in `.runs/<job_id>.json`, and its flock |
| `lease`, `leased_engine` | for how long a worker may act unheard; pause of its containers then |
| `context` | what a process binds to a flow it runs; `cancellation`: a request to end it |
"""
