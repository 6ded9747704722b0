"""Run any container image and command as a queued Prefect task.

payload ─► spec          decide: an untrusted message into one frozen `ContainerSpec`, purely
spec ─► execution        do: the order of the steps, the outcome, the clean-up
execution ─► finishing   the same for an attempt whose process is no more
execution ◄─ engine      the steps on a real Docker Engine; the only modules that import docker
engine ─► images         how an image comes: judged, pulled in turn, told of while it comes
execution ─► publication say: `run_json`, the `report` in Markdown, the states' `messages`
report ─► reproduction   the `docker run` that does the same by hand; `resources` against limits
publication ─► picture   what the picture of memory and CPU shows; `drawing` draws it
container_task           the flow that joins them: prepare, execute, publish

store, attempts         what is known of a run on disk, and the work of one attempt from it;
                         `preparation` is what comes before its container
lifecycle ─► recovery    the hooks, and what follows when a run's process is gone
worker ─► carrying       the worker that runs the flows in its own process, and hands them over
backlog ─► admission     what waits in its queues, and what of that may start in its capacity
testing                  the flow in somebody's own tests, on an engine that is a Python function
outputs, junit           what a task was to leave, collected, and what its test reports say;
                         `outputs_manifest` accounts for it
verdict ◄─ judging       the outcome in the light of both, before it is noted, whatever that costs
orphans                  the sweep: restart or end what died, remove what nobody owns
storage ─► sending       results to where the block Artifact Storage says, at once or by the sweep;
                         `uploads` decides, `stores` are the places, `upload_journal` remembers
retention                job folders that have been kept long enough, removed by the sweep
summary                  the week in numbers, as an artifact and an event: `summary_report` renders
automations              whom events are told to: files made into Prefect's automations, by name

cli                      the command: its words, and what submits, follows and shows runs
recordings ─► replay     what is known of a run, and the same again on this machine
checkup ◄─ doctor's      `checkup_host`, `checkup_engine` with `checkup_calls`, `engine_probe`
                         and `probe`, `checkup_prefect`, `checkup_blocks`: what each finds, and
                         how to mend it

Beside them: `container_payload` and `payload_model` (the keys of a payload, for machines and in
Prefect's form), `rules` and `faults` (what a payload may say, and what it is told), `policy` (what
a host allows), `outcomes`, `evidence` and `usage` (how it ended, and what it used), `events`,
`host` (what differs by host), `workspace`, `checkout`, `files`, `held_file`, `inside`, `tree` and
`removal` (the job's folder), `ownership` and `reclaim` (its files back from whoever the container
made them), `results`, `globs`, `keeping`, `reported_tests` and `results_tables` (what a run left:
as values, as paths, as files, in numbers, in the UI), `run_artifacts`, `resources`, `picture` and
`reproduction` (of the report), `run_progress` and `progress_artifact` (that a long run goes on),
`lanes`, `stops`, `run_notes`, `other_hosts` and `pool_events` (threads for runs, how one is
stopped, what a worker writes on runs, who is gone, what the pool tells), `pulling`,
`pull_progress`, `pull_news`, `turns`, `registries`, `private_images`, `image_names` and `platforms`
(what a pull says, who is told, whose turn it is, and for whom an image is), `judgement` and
`last_check` (what the policy allows), `engines` (which engine a run gets), `replay_place` (whose
rules and secrets a replay has), `prefect_api`, `secret_blocks`, `masking`, `markdown` and `text` (a
stranger's text as text), `sizes`, `logs`, `errors`.
"""
