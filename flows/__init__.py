"""Run any container image and command as a queued Prefect task.

payload ─► spec          decide: an untrusted message into one frozen `ContainerSpec`, purely
spec ─► execution        do: the order of the steps, the outcome, the clean-up
execution ◄─ engine      the steps on a real Docker Engine; the only modules that import docker
execution ─► report      say: `run.json`, the Markdown report, the state's message
container_task           the flow that joins them: prepare, execute, publish

ledger, attempts         what is known of a run on disk, and the work of one attempt from it
lifecycle ─► recovery    the hooks, and what follows when a run's process is gone
worker ─► carrying       the worker that runs the flows in its own process, and hands them over
backlog ─► admission     what waits in its queues, and what of that may start in its capacity
orphans                  the sweep: restart or end what died, remove what nobody owns

Beside them: `rules` and `faults` (what a payload may say, and what it is told), `policy` (what a
host allows), `outcomes`, `evidence` and `usage` (how it ended, and what it used), `events`, `host`
(what differs by host), `workspace`, `checkout`, `files`, `held_file`, `inside` and `removal` (the
job's folder), `ownership` and `reclaim` (its files back from whoever the container made them),
`lanes`, `stops`, `run_notes` and `pool_events` (threads for runs, how one is stopped, what a worker
writes on runs, what the pool tells), `logs`, `errors`.
"""
