"""Run any container image and command as a queued Prefect task.

payload ─► spec          decide: an untrusted message into one frozen `ContainerSpec`, purely
spec ─► execution        do: the order of the steps, the outcome, the clean-up
execution ◄─ engine      the steps on a real Docker Engine; the only modules that import docker
execution ─► report      say: `run.json`, the Markdown report, the state's message
container_task           the flow that joins them: prepare, execute, publish

Beside them: `rules` and `faults` (what a payload may say, and what it is told), `host` (what
differs by host), `workspace`, `checkout` and `files` (the job's folder), `logs`, `errors`.
"""
